"""Removing one direction from the residual stream, by hooks or by weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import (
    DenseDelta,
    Edit,
    HookContext,
    HookedModel,
    Intervention,
    LowRankDelta,
    Spec,
    VestigeError,
    WeightPatch,
)
from hooked.sites import SiteLike
from hooked.weights import Delta, hugging_face_name, parameters_of, shared_names

from .neurons import refuse_experts

_SOURCE = "Arditi et al. 2024, arXiv:2406.11717, section 2.4"


@dataclass(frozen=True)
class RemoveDirection:
    """Edit of a residual site: `x - (x . u) u`."""

    unit: Float[Tensor, " d_model"]

    def __call__(self, activation: Float[Tensor, "batch pos d_model"], /, hook: HookContext) -> Tensor:
        unit = self.unit.to(activation)
        return activation - (activation @ unit)[..., None] * unit


def ablate_direction(direction: Float[Tensor, " d_model"], *, sites: Sequence[SiteLike]) -> Intervention:
    """Remove one direction from the residual stream: x becomes `x - (x . u) u`, `u = direction / |direction|`.

    Args:
        direction: Any finite vector of norm above 0; its length does not matter.
        sites: Where it is removed. At `resid_pre`, `attn_out` and `mlp_out` of all blocks it equals `orthogonalize`; at
            `resid_post` alone it does not, since what is written inside a block is still read inside it.

    Raises:
        VestigeError: `direction` has norm zero or is not finite, or no site was given.

    Source:
        Arditi et al. 2024, arXiv:2406.11717, section 2.4.
    """
    unit = unit_of(direction)
    if not sites:
        raise VestigeError("ablate_direction needs at least one site, e.g. every ('resid_pre', layer)")
    settings = {"sites": tuple(str(site) for site in sites)}
    edits: dict[SiteLike, Edit] = dict.fromkeys(sites, RemoveDirection(unit))
    return Intervention(Spec("ablate_direction", "suppression", ("direction",), _SOURCE, settings), edits=edits)


def orthogonalize(
    model: HookedModel, direction: Float[Tensor, " d_model"], *, allow_tied: bool = False
) -> Intervention:
    """Make every weight that writes to the residual stream orthogonal to a direction.

    `W - (W u) u^T` for the rows of the token and position embeddings and the output projections of attention and MLP,
    and `b - (b . u) u` for their biases: what `ablate_direction` does at all writes, in weights.

    Args:
        model: A model whose sublayers add their output to the stream as it is; not changed.
        direction: Any finite vector of norm above 0.
        allow_tied: Accept tied embeddings, whose edit also removes the direction from the unembedding.

    Raises:
        VestigeError: The embeddings are tied, or a norm stands between a weight and the stream.

    Source:
        Arditi et al. 2024, arXiv:2406.11717, section 2.4; biases and position embeddings are included, without which it
        would not equal the hook form.
    """
    refuse_experts(model, method="orthogonalize")
    unit = unit_of(direction, d_model=model.d_model)
    _refuse_indirect_writes(model)
    embed = model.weight_name("embed")
    tied = shared_names(model.model, embed)
    if tied and not allow_tied:
        raise VestigeError(
            f"'{embed}' is tied to '{tied[0]}', so this would edit the unembedding too; untie them first, pass "
            "allow_tied=True if that is meant, or use ablate_direction"
        )
    writers = [embed.removesuffix(".weight")]
    if "pos_embed" in model.site_map.weights:
        writers.append(model.site_map.weights["pos_embed"])
    writers += [model.block_part(layer, role) for layer in range(model.n_layers) for role in ("attn.o", "mlp.out")]
    parameters, linear = parameters_of(model.model), _linears(model)
    deltas: dict[str, Delta] = {}
    for path in writers:
        deltas[f"{path}.weight"] = _delta(parameters[f"{path}.weight"], unit, rows_write=path not in linear)
        bias = parameters.get(f"{path}.bias")
        if bias is not None:
            wide = bias.detach().double().cpu()
            deltas[f"{path}.bias"] = DenseDelta((-(wide @ unit) * unit).float())
    spec = Spec("orthogonalize", "removal", ("direction",), _SOURCE, {"allow_tied": allow_tied})
    return Intervention(spec, weights=WeightPatch(deltas, tied=bool(tied)))


def unit_of(direction: Float[Tensor, " d_model"], *, d_model: int | None = None) -> Float[Tensor, " d_model"]:
    """Return the direction at norm 1, float64.

    Raises:
        VestigeError: Its norm is zero or not finite, or it is not one vector of the model's width.
    """
    if direction.ndim != 1 or (d_model is not None and len(direction) != d_model):
        raise VestigeError(
            f"a direction is one vector of length {d_model or 'd_model'}, got shape {tuple(direction.shape)}"
        )
    wide = direction.detach().double().cpu()
    norm = wide.norm().item()
    if not 0 < norm < inf:
        raise VestigeError(f"a direction needs a finite norm above 0, got {norm}")
    unit: Tensor = wide / norm
    return unit


def _refuse_indirect_writes(model: HookedModel) -> None:
    """Raise where what a weight writes is not what arrives in the stream."""
    sites = model.site_map
    if hasattr(model.model, "get_base_model"):
        raise VestigeError(
            "orthogonalize edits plain weights, and an adapter writes to the residual stream as well; "
            "merge it first (peft's merge_and_unload)"
        )
    for kind, part in (("attn_out", "attn"), ("mlp_out", "mlp")):
        path = sites.weights.get(f"blocks.0.{part}")
        tap = sites.tap(sites.resolve((kind, 0)))
        # OPT's MLP is not a module of its own, and nothing follows it.
        if path is not None and not f"{tap.module}.".startswith(f"{path}."):
            raise VestigeError(
                f"in {sites.family} the norm '{tap.module}' stands between {part} and the residual stream, so no "
                "weight edit makes what is written orthogonal; use ablate_direction"
            )
    if "embed_ln" in sites.weights or model.W_E.shape[1] != model.value_vectors(0).shape[1]:
        raise VestigeError(
            f"{sites.family} normalises or projects its embedding before the residual stream, so no weight edit makes "
            "what is written orthogonal; use ablate_direction"
        )


def _linears(model: HookedModel) -> set[str]:
    """Paths of linear layers: their columns are stream vectors; embeddings and GPT-2's Conv1D have them as rows."""
    linear = [name for name, module in model.model.named_modules() if isinstance(module, torch.nn.Linear)]
    return {hugging_face_name(f"{name}.").removesuffix(".") for name in linear}


def _delta(weight: Tensor, unit: Float[Tensor, " d_model"], *, rows_write: bool) -> LowRankDelta:
    wide = weight.detach().double().cpu()
    if rows_write:
        return LowRankDelta(-(wide @ unit)[:, None].float(), unit[None, :].float())
    return LowRankDelta(-unit[:, None].float(), (unit @ wide)[None, :].float())
