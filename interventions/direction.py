"""Removing one direction, or the space that several span, from the residual stream, by hooks or by weights."""

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
# Least singular value of unit vectors that count as independent.
_DEPENDENT = 1e-6

Directions = Float[Tensor, " d_model"] | Float[Tensor, "directions d_model"]


@dataclass(frozen=True)
class RemoveDirection:
    """Edit of a residual site: `x - (x . u) u`."""

    unit: Float[Tensor, " d_model"]

    def __call__(self, activation: Float[Tensor, "batch pos d_model"], /, hook: HookContext) -> Tensor:
        unit = self.unit.to(activation)
        return activation - (activation @ unit)[..., None] * unit


@dataclass(frozen=True)
class RemoveSubspace:
    """Edit of a residual site: `x - (x B^T) B`, for orthonormal rows B."""

    basis: Float[Tensor, "directions d_model"]

    def __call__(self, activation: Float[Tensor, "batch pos d_model"], /, hook: HookContext) -> Tensor:
        basis = self.basis.to(activation)
        return activation - (activation @ basis.T) @ basis


def ablate_direction(direction: Directions, *, sites: Sequence[SiteLike]) -> Intervention:
    """Remove one direction from the residual stream: x becomes `x - (x . u) u`, `u = direction / |direction|`.

    Of several directions the space that they span is removed, in whatever basis they are given.

    Args:
        direction: Any finite vector of norm above 0, or several linearly independent ones, one a row; their lengths do
            not matter.
        sites: Where it is removed. At `resid_pre`, `attn_out` and `mlp_out` of all blocks it equals `orthogonalize`; at
            `resid_post` alone it does not, since what is written inside a block is still read inside it.

    Raises:
        VestigeError: `direction` has norm zero or is not finite, several are dependent, or no site was given.

    Source:
        Arditi et al. 2024, arXiv:2406.11717, section 2.4; one direction there.
    """
    basis = basis_of(direction)
    if not sites:
        raise VestigeError("ablate_direction needs at least one site, e.g. every ('resid_pre', layer)")
    settings = {"sites": tuple(str(site) for site in sites)}
    edit = RemoveDirection(basis[0]) if len(basis) == 1 else RemoveSubspace(basis)
    edits: dict[SiteLike, Edit] = dict.fromkeys(sites, edit)
    return Intervention(Spec("ablate_direction", "suppression", ("direction",), _SOURCE, settings), edits=edits)


def orthogonalize(model: HookedModel, direction: Directions, *, allow_tied: bool = False) -> Intervention:
    """Make every weight that writes to the residual stream orthogonal to a direction, or to several.

    `W - (W u) u^T` for the rows of the token and position embeddings and the output projections of attention and MLP,
    and `b - (b . u) u` for their biases: what `ablate_direction` does at all writes, in weights.

    Args:
        model: A model whose sublayers add their output to the stream as it is; not changed.
        direction: Any finite vector of norm above 0, or several linearly independent ones, one a row.
        allow_tied: Accept tied embeddings, whose edit also removes the direction from the unembedding.

    Raises:
        VestigeError: The embeddings are tied, a norm stands between a weight and the stream, or the directions are
            dependent or have another width.

    Source:
        Arditi et al. 2024, arXiv:2406.11717, section 2.4; biases and position embeddings are included, without which it
        would not equal the hook form.
    """
    refuse_experts(model, method="orthogonalize")
    basis = basis_of(direction, d_model=model.d_model)
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
    parameters, linear = parameters_of(model.model), linear_paths(model)
    deltas: dict[str, Delta] = {}
    for path in writers:
        deltas[f"{path}.weight"] = _delta(parameters[f"{path}.weight"], basis, rows_write=path not in linear)
        bias = parameters.get(f"{path}.bias")
        if bias is not None:
            wide = bias.detach().double().cpu()
            deltas[f"{path}.bias"] = DenseDelta((-(basis @ wide) @ basis).float())
    spec = Spec("orthogonalize", "removal", ("direction",), _SOURCE, {"allow_tied": allow_tied})
    return Intervention(spec, weights=WeightPatch(deltas, tied=bool(tied)))


def basis_of(direction: Directions, *, d_model: int | None = None) -> Float[Tensor, "directions d_model"]:
    """Return orthonormal rows that span the directions, float64; the first has the direction of the first one.

    Raises:
        VestigeError: A norm is zero or not finite, they are linearly dependent, or they have not the model's width.
    """
    if direction.ndim not in (1, 2) or not len(direction) or (d_model is not None and direction.shape[-1] != d_model):
        raise VestigeError(
            f"a direction is one vector of length {d_model or 'd_model'}, or several as rows, got shape "
            f"{tuple(direction.shape)}"
        )
    wide = direction.detach().double().cpu().reshape(-1, direction.shape[-1])
    norms = wide.norm(dim=-1, keepdim=True)
    for norm in norms.flatten().tolist():
        if not 0 < norm < inf:
            raise VestigeError(f"a direction needs a finite norm above 0, got {norm}")
    units: Tensor = wide / norms
    if len(units) == 1:
        return units
    sizes = torch.linalg.svdvals(units)
    if len(units) > units.shape[1] or float(sizes[-1]) < _DEPENDENT:
        raise VestigeError(
            f"{len(units)} directions span fewer than {len(units)} dimensions; leave out those that the others give"
        )
    q, r = torch.linalg.qr(units.T)
    basis: Tensor = (q * r.diagonal().sign()).T.contiguous()
    return basis


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


def linear_paths(model: HookedModel) -> set[str]:
    """Paths of linear layers: their columns are stream vectors; embeddings and GPT-2's Conv1D have them as rows."""
    linear = [name for name, module in model.model.named_modules() if isinstance(module, torch.nn.Linear)]
    return {hugging_face_name(f"{name}.").removesuffix(".") for name in linear}


def _delta(weight: Tensor, basis: Float[Tensor, "directions d_model"], *, rows_write: bool) -> LowRankDelta:
    wide = weight.detach().double().cpu()
    if rows_write:
        return LowRankDelta(-(wide @ basis.T).float(), basis.float())
    return LowRankDelta(-basis.T.float(), (basis @ wide).float())
