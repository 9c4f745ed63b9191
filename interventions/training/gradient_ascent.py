"""Gradient ascent: make the forget answers unlikely, and nothing else."""

from __future__ import annotations

from typing import Unpack

from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData
from interventions.training.descent import Minibatch, forget_nll
from interventions.training.losses import AnswerNLL, Reduction, cross_entropy
from interventions.training.train import Training, learned


def gradient_ascent_loss(forget: AnswerNLL, *, reduction: Reduction = "mean") -> Float[Tensor, ""]:
    """Return `-CE(forget)`: unbounded below, so the training loop needs a stop.

    Source:
        Yao, Xu, Liu, *Large Language Model Unlearning*, arXiv:2310.10683, first term.
    """
    return -cross_entropy(forget, reduction=reduction)


def gradient_ascent(
    model: HookedModel, data: UnlearnData, *, reduction: Reduction = "mean", **training: Unpack[Training]
) -> Intervention:
    """Ascend the cross-entropy of the forget answers.

    The loss has no lower bound: once the answers are gone, it only ruins the model. So training stops when their mean
    probability is below `stop_fraction` (here 0.05) of what it was; None runs all steps.

    Args:
        model: Not changed.
        data: Needs `forget` items with an answer. Retain items are only watched (`retain_bound`).
        reduction: `mean` weighs answers equally, `token` weighs tokens equally.
        training: Settings of `train`.

    Raises:
        VestigeError: No forget item has an answer, or training diverged.

    Source:
        The first term of Yao, Xu, Liu, arXiv:2310.10683; the baseline of most benchmarks.
    """

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        return gradient_ascent_loss(forget_nll(current, batch), reduction=reduction)

    spec = Spec(
        "gradient_ascent", "removal", ("forget",), "Yao, Xu, Liu 2023, arXiv:2310.10683", {"reduction": reduction}
    )
    return learned(model, data, loss, spec, training, defaults={"stop_fraction": 0.05})
