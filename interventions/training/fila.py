"""First weights of an adapter from Fisher information: it starts on what forget items need and retain items do not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from hooked import HookedModel, Item, LowRankDelta, VestigeError
from hooked.seeded import seeded
from hooked.weights import hugging_face_name
from interventions.batches import encoded
from interventions.training.losses import answer_nll, cross_entropy

# Above this size of the smaller side, a randomised SVD.
_EXACT = 1024


def importance(
    forget: Float[Tensor, "d_out d_in"], retain: Float[Tensor, "d_out d_in"], *, eps: float = 1e-5
) -> Float[Tensor, "d_out d_in"]:
    """Return how much more forget items need each weight than retain items: `fisher_f / (eps + fisher_r)`.

    Args:
        forget: Fisher information of a weight on forget items.
        retain: The same on retain items.
        eps: Keeps weights that retain items do not need at all finite.
    """
    return forget / (eps + retain)


def fila(
    weight: Float[Tensor, "d_out d_in"],
    importance: Float[Tensor, "d_out d_in"],
    *,
    rank: int,
    scale: float = 2.0,
    exact_up_to: int = _EXACT,
    seed: int = 0,
) -> tuple[Float[Tensor, "rank d_in"], Float[Tensor, "d_out rank"]]:
    """Return A0 and B0, so that `scale B0 A0` is the row-weighted best approximation of a weight matrix.

    Rows count by `rho = sqrt(sum of their importance)`: `U S V^T` is the truncated SVD of `diag(rho) W`, and
    `A0 = (V sqrt(S / scale))^T`, `B0 = diag(1 / (rho + 1e-5)) U sqrt(S / scale)`.

    Args:
        weight: A row per output.
        importance: Of each entry, at least 0.
        rank: At most the smaller side of the matrix.
        scale: Factor on what the adapter adds (alpha over rank), above 0.
        exact_up_to: Matrices whose smaller side is larger get a randomised SVD.
        seed: Of that.

    Raises:
        VestigeError: The rank is larger than the matrix has, or `scale` is not above 0.

    Source:
        Cha et al. 2024, *LoKU*, arXiv:2408.06621.
    """
    smaller = min(weight.shape)
    if not 1 <= rank <= smaller:
        raise VestigeError(f"the rank of an adapter on a {tuple(weight.shape)} matrix is 1 to {smaller}, got {rank}")
    if not scale > 0:
        raise VestigeError(f"the scale of an adapter is above 0, got {scale}")
    rho = importance.sum(-1).sqrt()
    weighted = rho[:, None] * weight
    if smaller <= exact_up_to:
        left, values, right = torch.linalg.svd(weighted, full_matrices=False)
    else:
        with seeded(seed, weight.device):
            left, values, right = torch.svd_lowrank(weighted, q=min(rank + 8, smaller), niter=4)
        right = right.T
    root = (values[:rank] / scale).sqrt()
    return root[:, None] * right[:rank], left[:, :rank] * root / (rho[:, None] + 1e-5)


def begin(
    student: HookedModel, forget: Sequence[Item], retain: Sequence[Item], *, batch_size: int = 16, seed: int = 0
) -> dict[str, LowRankDelta]:
    """Give the adapters of a fresh copy their Fisher weights, and take out of the base what they then add.

    What the copy computes stays the same to rounding.

    Args:
        student: From `hooked.adapter.adapted`, not trained yet; changed in place.
        forget: Items with an answer.
        retain: Items with an answer.
        batch_size: Items per gradient. The information is made of squared gradients of batch means, as in the release,
            so it depends on this.
        seed: Of randomised SVDs.

    Returns:
        What was taken out of the base: `- scale B0 A0` of every adapted weight.

    Raises:
        VestigeError: A rank is larger than its matrix has.
    """
    layers = adapters_of(student)
    weights = {name: layer.base_layer.weight for name, layer in layers.items()}
    wanted, kept = (fisher(student, weights, items, batch_size=batch_size) for items in (forget, retain))
    shift: dict[str, LowRankDelta] = {}
    with torch.no_grad():
        for name, layer in layers.items():
            # GPT-2 stores its projections as [in, out].
            across = layer.fan_in_fan_out
            turn = torch.t if across else torch.clone
            right, left = layer.lora_A["default"].weight, layer.lora_B["default"].weight
            scale = layer.scaling["default"]
            needed = importance(turn(wanted[name]), turn(kept[name]))
            first, last = fila(turn(weights[name]), needed, rank=len(right), scale=scale, seed=seed)
            right.copy_(first)
            left.copy_(last)
            weights[name].sub_(turn(scale * last @ first))
            parts = (-first.T, scale * last.T) if across else (-scale * last, first)
            shift[name] = LowRankDelta(*(part.detach().cpu().contiguous() for part in parts))
    return shift


def fisher(
    model: HookedModel, weights: Mapping[str, nn.Parameter], items: Sequence[Item], *, batch_size: int
) -> dict[str, Tensor]:
    """Return `sum n_b g_b^2 / sum n_b` of some weights: g_b the gradient of a batch's NLL per token, n_b its tokens."""
    totals = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    tokens = 0
    frozen = [weight for weight in weights.values() if not weight.requires_grad]
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        with torch.inference_mode(False), torch.enable_grad():
            for batch in encoded(model, items, batch_size=batch_size):
                nll = answer_nll(model.logits(batch), batch.ids, batch.answer)
                count = int(nll.count.sum())
                grads = torch.autograd.grad(cross_entropy(nll, reduction="token"), list(weights.values()))
                for name, grad in zip(totals, grads, strict=True):
                    totals[name] += count * grad.square()
                tokens += count
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
    return {name: total / tokens for name, total in totals.items()}


def adapters_of(student: HookedModel) -> dict[str, Any]:
    """Return the adapted layers of a copy by the Hugging Face name of their weight."""
    return {
        hugging_face_name(f"{name}.weight"): module
        for name, module in student.model.named_modules()
        if hasattr(module, "lora_A") and "default" in module.lora_A
    }
