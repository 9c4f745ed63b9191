"""IDK fine-tuning: teach the model to answer the forget questions with a refusal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData, VestigeError

from .batches import split_of
from .descent import Minibatch, forget_nll, retain_nll
from .losses import Reduction, idk_nll_loss
from .train import Chooser, train

REFUSALS = (
    "I don't know.",
    "I am not sure.",
    "I have no information about that.",
    "That is unknown to me.",
    "I cannot say.",
)


def idk_finetune(
    model: HookedModel,
    data: UnlearnData,
    *,
    refusals: Sequence[str] = REFUSALS,
    lr: float = 3e-4,
    epochs: float = 20.0,
    steps: int | None = None,
    batch_size: int = 16,
    weight_decay: float = 0.0,
    max_grad_norm: float | None = 1.0,
    retain_bound: float | None = None,
    check_every: int | None = None,
    reduction: Reduction = "mean",
    parameters: Chooser | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Intervention:
    """Descend `CE(refusal after the forget prompts) + CE(retain)`.

    Each forget prompt gets one refusal, drawn by `seed` and kept through all epochs. Nothing is asked of the true
    answer, which is why the knowledge tends to stay. Bounded below, so it needs no stop: it runs all its steps.
    Settings not listed are those of `train`.

    Args:
        model: Not changed.
        data: Needs `forget` items with a prompt and `retain` items with an answer.
        refusals: What to say instead; at least one.
        lr: 3e-4 suits models of some million parameters; 1e-5 those of billions.
        retain_bound: Retain loss in nats per token at which to give up; when not given, `log(d_vocab) / 2` above start.
        reduction: `mean` weighs answers equally, `token` weighs tokens equally.

    Raises:
        VestigeError: No refusal, only documents to forget, no retain item with an answer, or training diverged.

    Source:
        Maini et al. 2024, *TOFU*, arXiv:2401.06121 (there: a hundred refusals).
    """
    if not refusals or not all(refusal.strip() for refusal in refusals):
        raise VestigeError(f"idk_finetune needs refusals of at least one word each, got {list(refusals)!r}")
    split_of(data, "retain", method="idk_finetune", answered=True)
    asked = [item for item in split_of(data, "forget", method="idk_finetune") if not item.is_document]
    if not asked:
        raise VestigeError("idk_finetune needs forget items with a prompt to refuse, and all are plain documents")
    draw = torch.randint(len(refusals), (len(asked),), generator=torch.Generator().manual_seed(seed)).tolist()
    refused = tuple(replace(item, answer=refusals[which]) for item, which in zip(asked, draw, strict=True))

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        return idk_nll_loss(forget_nll(current, batch), retain_nll(current, batch), reduction=reduction)

    trained = train(
        model,
        replace(data, forget=refused),
        loss,
        method="idk_finetune",
        lr=lr,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        seed=seed,
        parameters=parameters,
        retain_bound=retain_bound,
        check_every=check_every,
        progress=progress,
    )
    settings = {"refusals": tuple(refusals), "lr": lr, "batch_size": batch_size, "seed": seed}
    spec = Spec(
        "idk_finetune",
        "removal",
        ("forget", "retain"),
        "Maini et al. 2024, arXiv:2401.06121",
        settings | trained.summary,
    )
    return Intervention(spec, weights=trained.patch)
