"""UNDIAL: distil the model into itself, with the forget tokens' logits lowered."""

from __future__ import annotations

import warnings
from math import inf
from typing import Literal, Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData, VestigeError
from interventions.batches import encoded, split_of
from interventions.evaluating import evaluating
from interventions.training.descent import Minibatch
from interventions.training.losses import answer_logits
from interventions.training.retain import check_weights, retained
from interventions.training.train import Training, learned

Lowering = float | Literal["auto"]


def undial_loss(
    logits: Float[Tensor, "batch pos d_vocab"],
    reference_logits: Float[Tensor, "batch pos d_vocab"],
    ids: Int[Tensor, "batch pos"],
    answer: Bool[Tensor, "batch pos"],
    *,
    beta: Lowering = 10.0,
    margin: float = 5.0,
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy, in nats, of the model to a teacher whose logit of each answer token is lowered.

    The smallest value is the teacher's entropy. There the token has `p e^-beta / (p e^-beta + 1 - p)` of the
    probability p it had, so a token that is nearly certain survives a fixed beta.

    Args:
        logits: Of the model in training.
        reference_logits: Of the frozen original on the same tokens; no gradient flows into them.
        ids: Token ids.
        answer: True on answer tokens; the loss covers these alone.
        beta: By how much, in nats; at least 0. `auto` lowers each token to `margin` below the best other one.
        margin: With `auto`, above 0: the token ends at `e^-margin` of the best other one.

    Raises:
        VestigeError: `beta` or `margin` is out of range, or as `answer_nll`.

    Source:
        Dong, Lin, Belkin, Huerta, Vulić, *UNDIAL*, arXiv:2402.10052; `auto` is ours.
    """
    _check(beta, margin)
    chosen, tokens = answer_logits(logits, ids, answer)
    original, _ = answer_logits(reference_logits.detach(), ids, answer)
    lowered = original - F.one_hot(tokens, original.shape[-1]) * _lowering(original, tokens, beta, margin)[:, None]
    return F.cross_entropy(chosen, lowered.softmax(-1))


def logit_gap(logits: Float[Tensor, "tokens d_vocab"], tokens: Int[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Return by how much each token's logit exceeds the best other one."""
    others = logits.scatter(-1, tokens[:, None], -inf)
    return logits.gather(-1, tokens[:, None])[:, 0] - others.max(-1).values


def undial(
    model: HookedModel,
    data: UnlearnData,
    *,
    beta: Lowering = 10.0,
    margin: float = 5.0,
    retain_weight: float = 1.0,
    **training: Unpack[Training],
) -> Intervention:
    """Descend `undial_loss(forget) + retain_weight CE(retain)`, the given model its own teacher.

    What the model says instead of an answer is what it held second most likely. Bounded below: all steps are taken.

    Args:
        model: Not changed; it is run beside the copy in training.
        data: Needs `forget` items with an answer, and `retain` ones unless `retain_weight` is 0.
        beta: By how much the teacher's logits of answer tokens are lowered, in nats. Published 10. Over-trained models
            exceed that, which gives a warning; `auto` lowers each token by its own gap and `margin`.
        margin: With `auto`: how far below the best other token the answer token ends, in nats.
        retain_weight: Weight of the retain term; published 0, which leaves it out.
        training: Settings of `train`; here `lr` is 3e-4 and `epochs` 40. Published: lr 1e-4.

    Raises:
        VestigeError: A split has no item with an answer, a setting is wrong, or training diverged.

    Source:
        Dong et al. 2024, arXiv:2402.10052; its settings as other benchmarks release them, whose loss covers the prompt
        and padding too.
    """
    check_weights(data, method="undial", retain_weight=retain_weight)
    _check(beta, margin)
    gaps = _gaps(model, data)
    if beta != "auto" and float(gaps.max()) >= beta:
        warnings.warn(
            f"undial with beta={beta:g} leaves {int((gaps >= beta).sum())} of {len(gaps)} answer tokens on top: the "
            f"teacher's logit exceeds the next by up to {float(gaps.max()):.3g}; take a larger beta, or beta='auto'",
            stacklevel=2,
        )

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        with torch.no_grad():
            teacher = model.logits(batch.forget)
        student = current.logits(batch.forget)
        ids, answer = batch.forget.ids, batch.forget.answer
        forget = undial_loss(student, teacher, ids, answer, beta=beta, margin=margin)
        return forget + retained(current, batch, weight=retain_weight)

    needs = ("forget", "retain", "reference") if retain_weight > 0 else ("forget", "reference")
    own = {"margin": margin} if beta == "auto" else {}
    settings = {"beta": beta, **own, "retain_weight": retain_weight, "largest_gap": float(gaps.max())}
    spec = Spec("undial", "removal", needs, "Dong et al. 2024, arXiv:2402.10052", settings)
    return learned(model, data, loss, spec, training, defaults={"lr": 3e-4, "epochs": 40.0})


def _check(beta: Lowering, margin: float) -> None:
    if isinstance(beta, str):
        if beta != "auto":
            raise VestigeError(f"beta is a finite number of at least 0 or 'auto', got {beta!r}")
        if not 0 < margin < inf:
            raise VestigeError(f"margin is a finite number above 0, got {margin}")
    elif not 0 <= beta < inf:
        raise VestigeError(f"beta is a finite number of at least 0 or 'auto', got {beta}")


def _lowering(logits: Tensor, tokens: Tensor, beta: Lowering, margin: float) -> Float[Tensor, " tokens"]:
    if isinstance(beta, str):
        # A token that is far below the best one already is not raised.
        return (logit_gap(logits, tokens) + margin).clamp(min=0)
    return torch.full_like(logits[:, 0], beta)


@torch.no_grad()
def _gaps(model: HookedModel, data: UnlearnData) -> Float[Tensor, " tokens"]:
    items = split_of(data, "forget", method="undial", answered=True)
    batches = encoded(model, items, batch_size=16)
    with evaluating(model):
        return torch.cat([logit_gap(*answer_logits(model.logits(b), b.ids, b.answer)) for b in batches])
