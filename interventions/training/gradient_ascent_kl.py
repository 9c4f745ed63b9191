"""Gradient ascent with a divergence: make the forget answers unlikely, and predict on the retain text as before."""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData
from interventions.batches import split_of
from interventions.training.descent import Minibatch, forget_nll
from interventions.training.gradient_ascent import gradient_ascent_loss
from interventions.training.losses import Reduction
from interventions.training.retain import Positions, check_weights, retained_kl
from interventions.training.train import Training, learned


def gradient_ascent_kl(
    model: HookedModel,
    data: UnlearnData,
    *,
    retain_weight: float = 100.0,
    positions: Positions = "real",
    reduction: Reduction = "mean",
    **training: Unpack[Training],
) -> Intervention:
    """Descend `-CE(forget) + retain_weight KL(p0 || p)` on the retain items, p0 the given model's predictions.

    Keeps the whole distribution over next tokens, not just the right answer. Still unbounded below, so it stops like
    `gradient_ascent`.

    Args:
        model: Not changed; it is run beside the copy in training.
        data: Needs `forget` and `retain` items with an answer.
        retain_weight: Weight of the divergence; 0 makes this `gradient_ascent`. Published 1. Near the start the
            divergence has next to no gradient, so that a small weight mends late what ascent broke at once.
        positions: Where predictions are compared: at all `real` tokens of prompt and answer, or only where an `answer`
            token is predicted.
        reduction: Of the forget term: `mean` weighs answers equally, `token` (the release) weighs tokens equally.
        training: Settings of `train`; here `epochs` is 40 and `stop_fraction` 0.05. Published: lr 1e-5, 5 epochs of
            batches of 32, for models of some billion parameters.

    Raises:
        VestigeError: A split has no item with an answer, a setting is wrong, or training diverged.

    Source:
        KL minimisation of Maini et al. 2024, *TOFU*, arXiv:2401.06121, equation 4. The release averages over padding
        too, so that its value depends on the batch; here every real token counts once.
    """
    split_of(data, "retain", method="gradient_ascent_kl", answered=True)
    check_weights(data, method="gradient_ascent_kl", retain_weight=retain_weight)

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        ascent = gradient_ascent_loss(forget_nll(current, batch), reduction=reduction)
        return ascent + retained_kl(current, model, batch, weight=retain_weight, positions=positions)

    settings = {"retain_weight": retain_weight, "positions": positions, "reduction": reduction}
    needs = ("forget", "retain", "reference")
    spec = Spec("gradient_ascent_kl", "removal", needs, "Maini et al. 2024, arXiv:2401.06121", settings)
    return learned(model, data, loss, spec, training, defaults={"epochs": 40.0, "stop_fraction": 0.05})
