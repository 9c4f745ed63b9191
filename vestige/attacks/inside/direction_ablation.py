"""Direction ablation: remove from every block's output the direction in which unlearning has moved it."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import Edit, Intervention, Spec, UnlearnData, VestigeError
from hooked.sites import SiteLike
from interventions.direction import RemoveDirection
from vestige.attacks.asked import asked
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.inside.shift import residuals_beside
from vestige.reading import last_prompt_residuals

Axis = Literal["shift", "principal", "retain"]

# A direction shorter than this share of the residuals it was measured on may be rounding.
_TOO_SHORT = 1e-4


def direction_ablation(
    target: Target, data: UnlearnData, *, axis: Axis = "shift", batch_size: int = 32, seed: int = 0
) -> Attacked:
    """Remove one direction per block from the block's output, at all positions, and ask.

    Args:
        target: The subject; the notes of the original are read.
        data: The directions come from the last prompt tokens of its forget items, whose answers are not used.
        axis: `shift`: mean of the subject minus mean of the original. `principal`: the first principal axis of the
            activations of both together, each coordinate standardised, in the units of the activations. `retain`: the
            subject's mean on forget prompts minus that on retain prompts, which takes no original.
        batch_size: Rows per forward pass.
        seed: Nothing is drawn here.

    Raises:
        VestigeError: `axis` is unknown, an item has no answer, `retain` has no prompts, or the notes are of other items
            or of a model of another depth.

    Source:
        Lucki et al. 2024, arXiv:2409.18025. There the activations are those of all positions behind the 40th, of
        questions that the original alone gets right; here one position per question, and all questions.
    """
    directions = _directions(target, data, axis, batch_size)
    edits: dict[SiteLike, Edit] = {
        f"blocks.{layer}.hook_resid_post": RemoveDirection(unit) for layer, unit in directions.items()
    }
    with Intervention(Spec("direction_ablation", "attack"), edits=edits).applied(target.view) as view:
        found = asked(view, data.forget, batch_size=batch_size)
    note = "" if directions else "the subject's residuals are the original's, so there is no direction to remove"
    return replace(found, budget={**found.budget, "axis": axis, "blocks": len(directions)}, note=note)


def principal_axis(acts: Float[Tensor, "n d_model"]) -> Float[Tensor, " d_model"]:
    """Return the first principal axis of standardised activations in the units of the activations: of the standardised
    axis each coordinate is multiplied by its deviation again. Zero where nothing varies.
    """
    centred = acts.double() - acts.double().mean(0)
    deviation = centred.square().mean(0).sqrt()
    standardised = centred / torch.where(deviation > 0, deviation, 1.0)
    axis: Tensor = torch.linalg.svd(standardised, full_matrices=False)[2][0]
    return axis * deviation


def _directions(target: Target, data: UnlearnData, axis: str, batch_size: int) -> dict[int, Float[Tensor, " d_model"]]:
    """Return the unit vector of every block that has a direction."""
    if axis not in get_args(Axis):
        raise VestigeError(f"axis is one of {', '.join(get_args(Axis))}, got {axis!r}")
    mine, original = residuals_beside(target.view, target.notes, data, batch_size=batch_size)
    if axis == "shift":
        vectors = (mine - original).mean(0)
    elif axis == "principal":
        both = torch.cat([mine, original])
        vectors = torch.stack([principal_axis(both[:, layer]) for layer in range(both.shape[1])])
    else:
        kept = [item.prompt for item in data.retain if not item.is_document]
        if not kept:
            raise VestigeError(
                "direction_ablation(axis='retain') needs retain items with a prompt; give load_data(retain=...)"
            )
        theirs = last_prompt_residuals(target.view, kept, batch_size=batch_size)
        vectors = mine.mean(0) - torch.from_numpy(theirs).double().mean(0)
    scales = mine.norm(dim=-1).mean(0)
    return {
        layer: vector / vector.norm()
        for layer, (vector, scale) in enumerate(zip(vectors, scales, strict=True))
        if vector.norm() > _TOO_SHORT * scale
    }
