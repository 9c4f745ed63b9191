"""The term that keeps what is not to be forgotten: likely retain answers, or the original's predictions on them."""

from __future__ import annotations

from math import inf
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, UnlearnData, VestigeError
from interventions.batches import split_of
from interventions.training.descent import Minibatch, retain_batch, retain_nll
from interventions.training.losses import cross_entropy, kl_retain, predicting

Positions = Literal["real", "answer"]


def check_weights(data: UnlearnData, *, method: str, **weights: float) -> None:
    """Refuse a weight below 0, and a `retain_weight` above 0 without anything to retain.

    Raises:
        VestigeError: A weight is negative or not finite, or the data has no retain items with an answer.
    """
    for name, weight in weights.items():
        if not 0 <= weight < inf:
            raise VestigeError(f"{name} is a finite number of at least 0, got {weight}")
    if weights.get("retain_weight", 0) > 0:
        asks = f"{method} with retain_weight={weights['retain_weight']:g}"
        split_of(data, "retain", method=asks, answered=True)


def retained(current: HookedModel, batch: Minibatch, *, weight: float) -> Float[Tensor, ""] | float:
    """Return `weight * CE(retain)`; a weight of 0 costs nothing."""
    return weight * cross_entropy(retain_nll(current, batch)) if weight > 0 else 0.0


def retained_kl(
    current: HookedModel, original: HookedModel, batch: Minibatch, *, weight: float, positions: Positions = "real"
) -> Float[Tensor, ""] | float:
    """Return `weight * KL(p0 || p)` on the retain items; a weight of 0 costs nothing.

    Args:
        current: In training.
        original: Gives `p0`; no gradient flows into it.
        batch: Needs retain items.
        weight: Factor.
        positions: `real` compares the predictions at all tokens, `answer` only those of answer tokens.

    Raises:
        VestigeError: There are no retain items, or `positions` is neither.
    """
    if positions not in ("real", "answer"):
        raise VestigeError(f"positions is 'real' or 'answer', got {positions!r}")
    if weight == 0:
        return 0.0
    retain = retain_batch(batch)
    with torch.no_grad():
        before = original.logits(retain)
    where = retain.mask if positions == "real" else predicting(retain.answer)
    return weight * kl_retain(current.logits(retain), before, where)
