"""Weighted gradient ascent: push only those tokens away that are still likely."""

from __future__ import annotations

from math import inf
from typing import Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData, VestigeError
from interventions.training.descent import Minibatch
from interventions.training.losses import answer_token_nll
from interventions.training.retain import check_weights, retained
from interventions.training.train import Training, learned


def wga_loss(
    logits: Float[Tensor, "batch pos d_vocab"],
    ids: Int[Tensor, "batch pos"],
    answer: Bool[Tensor, "batch pos"],
    *,
    beta: float = 1.0,
) -> Float[Tensor, ""]:
    """Return `-mean p^beta * NLL` over all answer tokens of the batch, with no gradient through the weight `p^beta`.

    The value goes up to 0 again as tokens vanish, since their weight does: it says nothing about progress.

    Args:
        logits: Next-token logits of the model in training.
        ids: Token ids.
        answer: True on answer tokens.
        beta: At least 0; 0 is gradient ascent on tokens, larger ones let go of a token earlier.

    Raises:
        VestigeError: `beta` is negative, or as `answer_nll`.

    Source:
        Wang, Zhou, Zhou, Shin, Han, Weinberger, *Rethinking LLM Unlearning Objectives*, arXiv:2502.19301.
    """
    if not 0 <= beta < inf:
        raise VestigeError(f"beta is a finite number of at least 0, got {beta}")
    nll = answer_token_nll(logits, ids, answer)
    return -(torch.exp(-beta * nll.detach()) * nll).mean()


def wga(
    model: HookedModel,
    data: UnlearnData,
    *,
    beta: float = 1.0,
    retain_weight: float = 1.0,
    **training: Unpack[Training],
) -> Intervention:
    """Descend `wga_loss(forget) + retain_weight CE(retain)`.

    What is unlikely has next to no gradient, so all steps are taken: there is nothing left to ruin.

    Args:
        model: Not changed.
        data: Needs `forget` items with an answer, and `retain` ones unless `retain_weight` is 0.
        beta: At least 0; published 1.
        retain_weight: Weight of the retain term; 0 leaves it out.
        training: Settings of `train`; here `epochs` is 20. Published: lr 1e-5, 10 epochs, models of some billion
            parameters.

    Raises:
        VestigeError: A split has no item with an answer, a setting is wrong, or training diverged.

    Source:
        Wang et al. 2025, arXiv:2502.19301; its settings as other benchmarks release them.
    """
    check_weights(data, method="wga", retain_weight=retain_weight)

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        forget = wga_loss(current.logits(batch.forget), batch.forget.ids, batch.forget.answer, beta=beta)
        return forget + retained(current, batch, weight=retain_weight)

    needs = ("forget", "retain") if retain_weight > 0 else ("forget",)
    settings = {"beta": beta, "retain_weight": retain_weight}
    spec = Spec("wga", "removal", needs, "Wang et al. 2025, arXiv:2502.19301", settings)
    return learned(model, data, loss, spec, training, defaults={"epochs": 20.0})
