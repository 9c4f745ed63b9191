"""An affine map of what a sublayer writes, folded into the weights that write it."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import DenseDelta, HookedModel, LowRankDelta, VestigeError, WeightPatch
from hooked.sites import layer_of
from hooked.weights import Delta, parameters_of
from interventions.direction import linear_paths
from interventions.neurons import refuse_experts

Form = Literal["hooks", "weights"]


def folded(
    model: HookedModel,
    site: str,
    *,
    left: Float[Tensor, "d_model rank"],
    right: Float[Tensor, "rank d_model"],
    centre: Float[Tensor, " d_model"] | None,
    method: str,
) -> WeightPatch:
    """Return the patch after which a sublayer writes `y - ((y - centre) left) right` where it wrote `y = x W + b`.

    `W` becomes `W - (W left) right` and `b` becomes `b - ((b - centre) left) right`.

    Args:
        model: Not changed.
        site: Output of an attention or MLP block, as it leaves its last projection.
        left: Reads what is erased.
        right: Writes it.
        centre: What is left in its place; None for a linear map, which needs no bias.
        method: Who asks, for messages.

    Raises:
        VestigeError: The site is no output of a projection, an adapter or experts write there too, or there is no bias
            for the constant part.
    """
    refuse_experts(model, method=method)
    if hasattr(model.model, "get_base_model"):
        raise VestigeError(
            f"{method} with form='weights' edits plain weights, and an adapter writes at '{site}' as well; merge it "
            "first (peft's merge_and_unload), or use form='hooks'"
        )
    path = _writer(model, site, method=method)
    parameters = parameters_of(model.model)
    weight, bias = parameters[f"{path}.weight"], parameters.get(f"{path}.bias")
    wide = weight.detach().double().cpu()
    # A linear layer stores the vectors that it writes as columns, GPT-2's Conv1D as rows.
    pair = (-right.T, left.T @ wide) if path in linear_paths(model) else (-(wide @ left), right)
    dtype = torch.promote_types(weight.dtype, torch.float32)
    deltas: dict[str, Delta] = {f"{path}.weight": LowRankDelta(*(part.to(dtype).contiguous() for part in pair))}
    if bias is not None:
        start = bias.detach().double().cpu()
        deltas[f"{path}.bias"] = DenseDelta(-((start if centre is None else start - centre) @ left @ right).to(dtype))
    elif centre is not None:
        raise VestigeError(
            f"'{path}' has no bias to hold the constant part of the map; use affine=False, or form='hooks'"
        )
    return WeightPatch(deltas)


def check_form(form: str) -> None:
    """Refuse what is no form.

    Raises:
        VestigeError: It is neither `hooks` nor `weights`.
    """
    if form not in get_args(Form):
        raise VestigeError(f"form is 'hooks' or 'weights', got {form!r}")


def _writer(model: HookedModel, site: str, *, method: str) -> str:
    """Return the path of the projection whose output the site is."""
    sites, layer = model.site_map, layer_of(site)
    tap = sites.tap(site)
    whole = tap.side == "output" and tap.element == 0 and tap.columns is None and tap.d_head is None
    for role, part in (("attn.o", "attn"), ("mlp.out", "mlp")):
        path = None if layer is None else sites.weights.get(f"blocks.{layer}.{role}")
        if path is not None and whole and tap.module in (path, sites.weights.get(f"blocks.{layer}.{part}")):
            return path
    raise VestigeError(
        f"{method} with form='weights' folds the map into the projection whose output a site is, and '{site}' of "
        f"{sites.family} is none; use 'mlp_out' or 'attn_out' ('mlp_raw' or 'attn_raw' where a norm follows), "
        "form='hooks', or orthogonalize, which removes directions from the whole residual stream"
    )
