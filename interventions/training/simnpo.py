"""SimNPO: push the forget answers away until each is unlikely per token, without a reference model."""

from __future__ import annotations

from math import isfinite
from typing import Unpack

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData, VestigeError
from interventions.training.descent import Minibatch, forget_nll
from interventions.training.losses import AnswerNLL, positive
from interventions.training.retain import check_weights, retained
from interventions.training.train import Training, learned


def simnpo_loss(forget: AnswerNLL, *, beta: float = 4.5, delta: float = 0.0) -> Float[Tensor, ""]:
    """Return `-(2/beta) mean_b log sigmoid(beta (m_b - delta))`, on means over answer tokens.

    The gradient is that of `-mean_b m_b` with row b weighted by `2 sigmoid(-beta (m_b - delta))`. There is no
    reference, so an answer that the model never knew (m above 1 nat) is left alone from the first step.

    Args:
        forget: The forget rows under the model in training.
        beta: Above 0; how sharply an answer is let go around `delta`.
        delta: Nats per token that a forgotten answer should have. The paper's margin is `beta * delta`.

    Raises:
        VestigeError: `beta` is not above 0, or `delta` is not finite.

    Source:
        Fan et al., *Simplicity Prevails*, arXiv:2410.07163.
    """
    beta = positive(beta)
    if not isfinite(delta):
        raise VestigeError(f"delta is a finite number of nats per token, got {delta}")
    return -(2 / beta) * F.logsigmoid(beta * (forget.mean - delta)).mean()


def simnpo(
    model: HookedModel,
    data: UnlearnData,
    *,
    beta: float = 4.5,
    delta: float = 2.0,
    forget_weight: float = 0.125,
    retain_weight: float = 1.0,
    **training: Unpack[Training],
) -> Intervention:
    """Descend `forget_weight * simnpo_loss + retain_weight CE(retain)`.

    Lengths do not matter, and easy and hard answers get the same target. Bounded below: all steps are taken.

    Args:
        model: Not changed.
        data: Needs `forget` items with an answer, and `retain` ones unless `retain_weight` is 0.
        beta: Above 0. Published 4.5 (and 2.5 with other models).
        delta: Nats per token that a forgotten answer should have. Published 0, with which the pull is gone at a
            probability of about a third per token; 2 ends at about a tenth.
        forget_weight: Weight of forgetting; the paper's gamma, published 0.125.
        retain_weight: Weight of the retain term; 0 leaves it out.
        training: Settings of `train`; here `epochs` is 20. Published: lr 1e-5, 10 epochs, models of some billion
            parameters.

    Raises:
        VestigeError: A split has no item with an answer, a setting is wrong, or training diverged.

    Source:
        Fan, Liu, Lin, Jia, Zhang, Mei, Liu 2024, arXiv:2410.07163; its settings as other benchmarks release them.
    """
    check_weights(data, method="simnpo", forget_weight=forget_weight, retain_weight=retain_weight)

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        forget = simnpo_loss(forget_nll(current, batch), beta=beta, delta=delta)
        return forget_weight * forget + retained(current, batch, weight=retain_weight)

    needs = ("forget", "retain") if retain_weight > 0 else ("forget",)
    settings = {"beta": beta, "delta": delta, "forget_weight": forget_weight, "retain_weight": retain_weight}
    spec = Spec("simnpo", "removal", needs, "Fan et al. 2024, arXiv:2410.07163", settings)
    return learned(model, data, loss, spec, training, defaults={"epochs": 20.0})
