"""Negative preference optimisation: push the forget answers away, less and less the further they are gone."""

from __future__ import annotations

from typing import Unpack

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData
from interventions.batches import split_of
from interventions.training.descent import Minibatch, forget_nll
from interventions.training.losses import AnswerNLL, check_same_rows, positive
from interventions.training.reference import reference_nll
from interventions.training.retain import check_weights, retained
from interventions.training.train import Training, learned


def npo_loss(forget: AnswerNLL, reference: AnswerNLL, *, beta: float = 0.1) -> Float[Tensor, ""]:
    """Return `-(2/beta) mean_b log sigmoid(beta (S_b - S0_b))`, on sums over answer tokens.

    The gradient is that of `-mean_b S_b` with row b weighted by `2 sigmoid(-beta (S_b - S0_b))`: 1 at the start, 0 once
    the answer is unlikely. The value starts at `(2/beta) log 2`.

    Args:
        forget: The forget rows under the model in training.
        reference: The same rows under the frozen original; no gradient flows into it.
        beta: Above 0; towards 0 the loss becomes gradient ascent on sums.

    Raises:
        VestigeError: `beta` is not above 0, or the rows do not match.

    Source:
        Zhang, Lin, Bai, Mei, *Negative Preference Optimization*, arXiv:2404.05868.
    """
    beta = positive(beta)
    check_same_rows("reference", reference, forget)
    return -(2 / beta) * F.logsigmoid(beta * (forget.total - reference.total.detach())).mean()


def npo(
    model: HookedModel,
    data: UnlearnData,
    *,
    beta: float = 0.5,
    retain_weight: float = 1.0,
    **training: Unpack[Training],
) -> Intervention:
    """Descend `-(2/beta) mean log sigmoid(beta (S - S0)) + retain_weight CE(retain)`, S the NLL of a forget answer.

    The reference S0 is that of the given model, computed once. The loss is bounded below, so all steps are taken; the
    retain term then mends what broke.

    Args:
        model: Not changed.
        data: Needs `forget` items with an answer, and `retain` ones unless `retain_weight` is 0.
        beta: Above 0. An answer is let go once `beta (S - S0)` is well above 1, so what suits depends on the length of
            the answers: 0.5 for a few tokens; published 0.1, for answers of some ten tokens. Towards 0 it becomes
            gradient ascent.
        retain_weight: Weight of the retain term; 0 leaves it out.
        training: Settings of `train`; here `epochs` is 20.

    Raises:
        VestigeError: A split has no item with an answer, a setting is wrong, or training diverged.

    Source:
        Zhang, Lin, Bai, Mei 2024, arXiv:2404.05868; with the retain term it is the paper's NPO+RT.
    """
    check_weights(data, method="npo", retain_weight=retain_weight)
    reference = reference_nll(model, split_of(data, "forget", method="npo", answered=True))

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        forget = npo_loss(forget_nll(current, batch), reference[batch.rows], beta=beta)
        return forget + retained(current, batch, weight=retain_weight)

    needs = ("forget", "retain", "reference") if retain_weight > 0 else ("forget", "reference")
    settings = {"beta": beta, "retain_weight": retain_weight}
    spec = Spec("npo", "removal", needs, "Zhang, Lin, Bai, Mei 2024, arXiv:2404.05868", settings)
    return learned(model, data, loss, spec, training, defaults={"epochs": 20.0})
