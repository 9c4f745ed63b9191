"""Negative preference optimisation: gradient ascent that lets go of an answer once it is unlikely."""

from __future__ import annotations

import torch
from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData, VestigeError

from .batches import encoded, split_of
from .descent import Minibatch, forget_nll, retain_nll
from .losses import AnswerNLL, answer_nll, cross_entropy, npo_loss
from .train import Chooser, train


def npo(
    model: HookedModel,
    data: UnlearnData,
    *,
    beta: float = 0.5,
    retain_weight: float = 1.0,
    lr: float = 1e-4,
    epochs: float = 20.0,
    steps: int | None = None,
    batch_size: int = 16,
    weight_decay: float = 0.0,
    max_grad_norm: float | None = 1.0,
    stop_fraction: float | None = None,
    retain_bound: float | None = None,
    check_every: int | None = None,
    parameters: Chooser | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Intervention:
    """Descend `-(2/beta) mean log sigmoid(beta (S - S0)) + retain_weight CE(retain)`, S the NLL of a forget answer.

    The reference S0 is that of the given model, computed once. Settings not listed are those of `train`.

    Args:
        model: Not changed.
        data: Needs `forget` items with an answer, and `retain` ones unless `retain_weight` is 0.
        beta: Above 0. An answer is let go once `beta (S - S0)` is well above 1, so what suits depends on the length of
            the answers: 0.5 for a few tokens; published 0.1, for answers of some ten tokens. Towards 0 it becomes
            gradient ascent.
        retain_weight: Weight of the retain term; 0 leaves it out.
        lr: 1e-4 suits models of some million parameters; 1e-5 those of billions.
        stop_fraction: Stop once the mean probability of the forget answers is below this fraction of the original's;
            None runs all steps, which the loss, bounded below, allows; the retain term then mends what broke.
        retain_bound: Retain loss in nats per token at which to give up; when not given, `log(d_vocab) / 2` above start.

    Raises:
        VestigeError: A split has no item with an answer, or training diverged.

    Source:
        Zhang, Lin, Bai, Mei 2024, arXiv:2404.05868; with the retain term it is the paper's NPO+RT.
    """
    if retain_weight < 0:
        raise VestigeError(f"retain_weight is at least 0, got {retain_weight}")
    if retain_weight > 0:
        split_of(data, "retain", method=f"npo with retain_weight={retain_weight:g}", answered=True)
    reference = _reference(model, data, batch_size)

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        value = npo_loss(forget_nll(current, batch), reference[batch.rows.to(reference.total.device)], beta=beta)
        if retain_weight > 0:
            value = value + retain_weight * cross_entropy(retain_nll(current, batch))
        return value

    trained = train(
        model,
        data,
        loss,
        method="npo",
        lr=lr,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        seed=seed,
        parameters=parameters,
        stop_fraction=stop_fraction,
        retain_bound=retain_bound,
        check_every=check_every,
        progress=progress,
    )
    settings = {
        "beta": beta,
        "retain_weight": retain_weight,
        "lr": lr,
        "batch_size": batch_size,
        "stop_fraction": stop_fraction,
        "seed": seed,
    }
    needs = ("forget", "retain", "reference") if retain_weight > 0 else ("forget", "reference")
    spec = Spec("npo", "removal", needs, "Zhang, Lin, Bai, Mei 2024, arXiv:2404.05868", settings | trained.summary)
    return Intervention(spec, weights=trained.patch)


@torch.no_grad()
def _reference(model: HookedModel, data: UnlearnData, batch_size: int) -> AnswerNLL:
    """Score the forget answers under the original, one number per item."""
    items = split_of(data, "forget", method="npo", answered=True)
    scored = [answer_nll(model.logits(b), b.ids, b.answer) for b in encoded(model, items, batch_size=batch_size)]
    return AnswerNLL(torch.cat([s.total for s in scored]), torch.cat([s.count for s in scored]))
