"""Steering: add a direction to the residual stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import Edit, HookContext, Intervention, Spec, VestigeError
from hooked.intervention import Intent
from hooked.sites import SiteLike

Positions = Literal["all", "prompt", "answer"]


@dataclass(frozen=True)
class AddDirection:
    """Edit of a residual site: adds one vector at some positions."""

    vector: Float[Tensor, " d_model"]
    positions: Positions

    def __call__(self, activation: Float[Tensor, "batch pos d_model"], /, hook: HookContext) -> Tensor:
        vector = self.vector.to(activation)
        request = hook.request
        if request is None:
            if self.positions != "all":
                raise VestigeError(
                    f"steering at positions={self.positions!r} has to know the prompt; "
                    "run it through Intervention.applied"
                )
            return activation + vector
        where = {"all": request.mask, "prompt": request.prompt, "answer": request.step}[self.positions]
        return torch.where(where.to(activation.device)[..., None], activation + vector, activation)


def steer(
    direction: Float[Tensor, " d_model"],
    *,
    sites: Sequence[SiteLike],
    coefficient: float = 1.0,
    positions: Positions = "all",
    intent: Intent = "suppression",
) -> Intervention:
    """Add `coefficient * direction` to the residual stream.

    Args:
        direction: A finite vector in the units of the stream, added as it is: a difference of means needs no rescaling.
        sites: Where it is added, e.g. `[("resid_post", 5)]`.
        coefficient: Factor; negative steers away.
        positions: `all` real tokens, those of the `prompt`, or those from the last prompt token on (`answer`), whose
            logits become the answer.
        intent: What the intervention claims to be; steering is also used as an attack.

    Raises:
        VestigeError: The direction or coefficient is not finite, no site was given, or `positions` is unknown.

    Source:
        Turner et al. 2023, arXiv:2308.10248 (activation addition).
    """
    if direction.ndim != 1 or not bool(torch.isfinite(direction).all()):
        raise VestigeError(f"a direction is one finite vector [d_model], got shape {tuple(direction.shape)}")
    if not abs(coefficient) < float("inf"):
        raise VestigeError(f"coefficient is a finite number, got {coefficient}")
    if not sites:
        raise VestigeError("steer needs at least one site, e.g. ('resid_post', 5)")
    if positions not in get_args(Positions):
        raise VestigeError(f"positions is one of {', '.join(get_args(Positions))}, got {positions!r}")
    settings = {"sites": tuple(str(site) for site in sites), "coefficient": coefficient, "positions": positions}
    edit = AddDirection(coefficient * direction.detach().clone(), positions)
    edits: dict[SiteLike, Edit] = dict.fromkeys(sites, edit)
    return Intervention(
        Spec("steer", intent, ("direction",), "Turner et al. 2023, arXiv:2308.10248", settings), edits=edits
    )
