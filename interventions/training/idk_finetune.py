"""IDK fine-tuning: teach the model to answer the forget questions with a refusal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData
from interventions.batches import split_of
from interventions.training.descent import Minibatch, forget_nll, retain_nll
from interventions.training.losses import AnswerNLL, Reduction, cross_entropy
from interventions.training.refusals import REFUSALS, refuse_stop, refused
from interventions.training.train import Training, learned


def idk_nll_loss(
    idk: AnswerNLL, retain: AnswerNLL | None = None, *, reduction: Reduction = "mean"
) -> Float[Tensor, ""]:
    """Return `CE(idk) + CE(retain)`, where `idk` scores a refusal such as "I don't know" after the forget questions.

    Source:
        Maini et al., *TOFU*, arXiv:2401.06121.
    """
    loss = cross_entropy(idk, reduction=reduction)
    return loss if retain is None else loss + cross_entropy(retain, reduction=reduction)


def idk_finetune(
    model: HookedModel,
    data: UnlearnData,
    *,
    refusals: Sequence[str] = REFUSALS,
    reduction: Reduction = "mean",
    **training: Unpack[Training],
) -> Intervention:
    """Descend `CE(refusal after the forget prompts) + CE(retain)`.

    Each forget prompt gets one refusal, drawn by `seed` and kept through all epochs. Nothing is asked of the true
    answer, which is why the knowledge tends to stay. Bounded below, so it needs no stop: it runs all its steps.

    Args:
        model: Not changed.
        data: Needs `forget` items with a prompt and `retain` items with an answer.
        refusals: What to say instead; at least one.
        reduction: `mean` weighs answers equally, `token` weighs tokens equally.
        training: Settings of `train`, without `stop_fraction`; here `lr` is 3e-4 and `epochs` 20.

    Raises:
        VestigeError: No refusal, only documents to forget, no retain item with an answer, or training diverged.

    Source:
        Maini et al. 2024, *TOFU*, arXiv:2401.06121 (there: a hundred refusals).
    """
    refuse_stop(training, method="idk_finetune", taught="refusals")
    split_of(data, "retain", method="idk_finetune", answered=True)
    items = refused(data, refusals, seed=training.get("seed", 0), method="idk_finetune")

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        return idk_nll_loss(forget_nll(current, batch), retain_nll(current, batch), reduction=reduction)

    settings = {"refusals": tuple(refusals), "reduction": reduction}
    spec = Spec("idk_finetune", "removal", ("forget", "retain"), "Maini et al. 2024, arXiv:2401.06121", settings)
    data = replace(data, forget=items)
    return learned(model, data, loss, spec, training, defaults={"lr": 3e-4, "epochs": 20.0})
