"""Gradient difference: make the forget answers unlikely and keep the retain answers likely."""

from __future__ import annotations

from typing import Unpack

from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData
from interventions.batches import split_of
from interventions.training.descent import Minibatch, forget_nll, retain_nll
from interventions.training.gradient_ascent import gradient_ascent_loss
from interventions.training.losses import AnswerNLL, Reduction, cross_entropy
from interventions.training.retain import check_weights
from interventions.training.train import Training, learned


def gradient_difference_loss(
    forget: AnswerNLL, retain: AnswerNLL, *, gamma: float = 1.0, alpha: float = 1.0, reduction: Reduction = "mean"
) -> Float[Tensor, ""]:
    """Return `-gamma CE(forget) + alpha CE(retain)`.

    Source:
        Maini et al., *TOFU*, arXiv:2401.06121. The release averages over tokens (`reduction="token"`).
    """
    return gamma * gradient_ascent_loss(forget, reduction=reduction) + alpha * cross_entropy(
        retain, reduction=reduction
    )


def gradient_difference(
    model: HookedModel,
    data: UnlearnData,
    *,
    gamma: float = 1.0,
    alpha: float = 1.0,
    reduction: Reduction = "mean",
    **training: Unpack[Training],
) -> Intervention:
    """Descend `-gamma CE(forget) + alpha CE(retain)`, with retain batches shuffled independently of the forget ones.

    Unbounded below like `gradient_ascent`, so it stops in the same way.

    Args:
        model: Not changed.
        data: Needs `forget` and `retain` items with an answer.
        gamma: Weight of forgetting.
        alpha: Weight of retaining.
        reduction: `mean` weighs answers equally, `token` (the release) weighs tokens equally.
        training: Settings of `train`; here `stop_fraction` is 0.05.

    Raises:
        VestigeError: A split has no item with an answer, a weight is out of range, or training diverged.

    Source:
        Maini et al. 2024, *TOFU*, arXiv:2401.06121.
    """
    split_of(data, "retain", method="gradient_difference", answered=True)
    check_weights(data, method="gradient_difference", gamma=gamma, alpha=alpha)

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        return gradient_difference_loss(
            forget_nll(current, batch), retain_nll(current, batch), gamma=gamma, alpha=alpha, reduction=reduction
        )

    settings = {"gamma": gamma, "alpha": alpha, "reduction": reduction}
    spec = Spec("gradient_difference", "removal", ("forget", "retain"), "Maini et al. 2024, arXiv:2401.06121", settings)
    return learned(model, data, loss, spec, training, defaults={"stop_fraction": 0.05})
