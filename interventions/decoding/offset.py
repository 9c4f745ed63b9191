"""Offset unlearning: shift a model's logits by the difference that unlearning makes to a small model."""

from __future__ import annotations

from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Intervention, Spec, TokenBatch, UnlearnData, VestigeError
from hooked.truncated import truncated
from interventions.batches import split_of
from interventions.decoding.assistant import Assistant, Checkpoint, Loaded
from interventions.decoding.combiner import LogitCombiner, Term, finite
from interventions.decoding.plausible import Plausible
from interventions.decoding.uld import UNBOUNDED
from interventions.training.descent import Minibatch
from interventions.training.losses import answer_nll, cross_entropy
from interventions.training.npo import npo_loss
from interventions.training.reference import reference_nll
from interventions.training.train import Training, learned

_SOURCE = "Huang et al. 2024, arXiv:2404.11045"
Small = Checkpoint | Loaded | HookedModel | str


def offset_unlearning(
    model: HookedModel,
    data: UnlearnData,
    *,
    n_layers: int | None = None,
    weight: float = 1.0,
    beta: float = 0.5,
    retain_weight: float = 1.0,
    **training: Unpack[Training],
) -> Intervention:
    """Add `weight * (z_offset - z_small)`, the small model trained so that the sum, not itself, forgets.

    The small model is the target's own first blocks. Its copy is trained through the combined logits with the loss of
    `npo`, `-(2/beta) mean log sigmoid(beta (S - S0)) + retain_weight CE(retain)`, and the target's weights need no
    gradient. Who has them has the knowledge.

    Args:
        model: Not changed.
        data: Needs `forget` items with an answer, and `retain` ones unless `retain_weight` is 0.
        n_layers: Blocks of the small model; a quarter of the target's when not given.
        weight: Of the offset, in training and afterwards.
        beta: As in `npo`.
        retain_weight: As in `npo`.
        training: Settings of `train`; here `lora` is 16, `lr` 1e-3, `epochs` 20, and the small model's own retain loss
            is not bounded. `stop_fraction` would look at the small model alone.

    Raises:
        VestigeError: A split has no item with an answer, a number is out of range, or training diverged.

    Source:
        Huang et al. 2024, arXiv:2404.11045, with separate small models (`logit_offset` takes such) and gradient ascent,
        gradient difference or KL as the loss; NPO is bounded and needs no early stop.
    """
    finite(weight=weight, retain_weight=retain_weight)
    if weight == 0:
        raise VestigeError(
            "weight is another number than 0: with 0 the offset has no effect and nothing can be trained"
        )
    if retain_weight < 0:
        raise VestigeError(f"retain_weight is at least 0, got {retain_weight}")
    if retain_weight > 0:
        split_of(data, "retain", method=f"offset_unlearning with retain_weight={retain_weight:g}", answered=True)
    blocks = max(1, model.n_layers // 4) if n_layers is None else n_layers
    small = truncated(model, blocks)
    reference = reference_nll(model, split_of(data, "forget", method="offset_unlearning", answered=True))

    def combined(current: HookedModel, batch: TokenBatch) -> Float[Tensor, "batch pos d_vocab"]:
        with torch.no_grad():
            fixed = model.logits(batch) - weight * small.logits(batch)
        return fixed + weight * current.logits(batch)

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        forget = answer_nll(combined(current, batch.forget), batch.forget.ids, batch.forget.answer)
        value = npo_loss(forget, reference[batch.rows], beta=beta)
        if batch.retain is not None and retain_weight > 0:
            retain = answer_nll(combined(current, batch.retain), batch.retain.ids, batch.retain.answer)
            value = value + retain_weight * cross_entropy(retain)
        return value

    settings = {"n_layers": blocks, "weight": weight, "beta": beta, "retain_weight": retain_weight}
    needs = ("forget", "retain", "reference") if retain_weight > 0 else ("forget", "reference")
    spec = Spec("offset_unlearning", "suppression", needs, _SOURCE, settings)
    defaults: Training = {"lora": 16, "lr": 1e-3, "epochs": 20.0, "retain_bound": UNBOUNDED}
    trained = learned(small, data, loss, spec, training, defaults=defaults)
    others = (Assistant(blocks, trained.weights), Assistant(blocks))
    return Intervention(trained.spec, logits=LogitCombiner(_terms(weight), others))


def logit_offset(
    unlearned: Small, original: Small, *, weight: float = 1.0, cutoff: float | None = None
) -> Intervention:
    """Add `weight * (z_unlearned - z_original)` of two models of the target's tokenizer.

    Their embeddings may be padded to other sizes than the target's; padding ids stay as likely as the target has them.

    Args:
        unlearned: A small model after unlearning: a folder or hub id, a `Checkpoint`, or a loaded model, also a view.
            An intervention with a loaded model cannot be saved.
        original: The same model before.
        weight: Of the offset.
        cutoff: As in `uld`; None keeps all tokens.

    Raises:
        VestigeError: A number is out of range. When it is applied: nothing loadable is there, or the vocabulary is
            another one.

    Source:
        Huang et al. 2024, arXiv:2404.11045.
    """
    finite(weight=weight)
    rule = None if cutoff is None else Plausible(cutoff, rank=True)
    others = (_described(unlearned), _described(original))
    names = [one.name if isinstance(one, Checkpoint) else one.model.name for one in others]
    settings = {"unlearned": names[0], "original": names[1], "weight": weight, "cutoff": cutoff}
    spec = Spec("logit_offset", "suppression", (), _SOURCE, settings)
    return Intervention(spec, logits=LogitCombiner(_terms(weight), others, rule))


def _terms(weight: float) -> tuple[Term, ...]:
    return Term(1.0, "logits"), Term(weight, "logits", 1), Term(-weight, "logits", 2)


def _described(model: Small) -> Checkpoint | Loaded:
    if isinstance(model, HookedModel):
        return Loaded(model)
    return model if isinstance(model, Checkpoint | Loaded) else Checkpoint(str(model))
