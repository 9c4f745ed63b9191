"""IDK-DPO: prefer a refusal over the true answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData, VestigeError
from interventions.batches import encode
from interventions.training.descent import Minibatch, forget_nll
from interventions.training.losses import AnswerNLL, answer_nll, check_same_rows, positive
from interventions.training.reference import reference_nll
from interventions.training.refusals import REFUSALS, answered_and_refused
from interventions.training.retain import check_weights, retained
from interventions.training.train import Training, learned

Scale = Literal["2/beta", "1"]


def idk_dpo_loss(
    idk: AnswerNLL,
    forget: AnswerNLL,
    *,
    reference_idk: AnswerNLL,
    reference_forget: AnswerNLL,
    beta: float = 0.1,
    scale: Scale = "2/beta",
) -> Float[Tensor, ""]:
    """Prefer a refusal over the answer: `-scale mean_b log sigmoid(beta Delta_b)`, on sums over answer tokens.

    `Delta = (S0 - S)(idk) - (S0 - S)(forget)`, 0 at the start.

    Args:
        idk: Refusals under the model in training.
        forget: The true answers to the same questions, row by row.
        reference_idk: The refusals under the frozen original; no gradient flows into it.
        reference_forget: The answers under the frozen original; likewise.
        beta: Above 0.
        scale: `2/beta` (open-unlearning, ConceptVectors) or `1` (TOFU). Gradients differ by `2/beta`, so learning rates
            do not transfer.

    Raises:
        VestigeError: `beta` is not above 0, the rows do not match, or `scale` is unknown.

    Source:
        Maini et al., *TOFU*, arXiv:2401.06121, after Rafailov et al., arXiv:2305.18290.
    """
    beta = positive(beta)
    if scale not in ("2/beta", "1"):
        raise VestigeError(f"scale must be '2/beta' or '1', got {scale!r}")
    check_same_rows("reference_idk", reference_idk, idk)
    check_same_rows("reference_forget", reference_forget, forget)
    if idk.total.shape != forget.total.shape:
        raise VestigeError(
            f"each forget row needs one refusal, got {len(idk.total)} refusals for {len(forget.total)} rows"
        )
    gain_idk = reference_idk.total.detach() - idk.total
    gain_forget = reference_forget.total.detach() - forget.total
    loss = -F.logsigmoid(beta * (gain_idk - gain_forget)).mean()
    return loss * (2 / beta) if scale == "2/beta" else loss


def idk_dpo(
    model: HookedModel,
    data: UnlearnData,
    *,
    refusals: Sequence[str] = REFUSALS,
    beta: float | Literal["auto"] = "auto",
    scale: Scale = "2/beta",
    retain_weight: float = 1.0,
    **training: Unpack[Training],
) -> Intervention:
    """Descend `idk_dpo_loss(refusal over answer) + retain_weight CE(retain)`.

    Each forget prompt gets one refusal, drawn by `seed` and kept through all epochs. Both references are those of the
    given model, computed once. Bounded below: all steps are taken.

    Args:
        model: Not changed.
        data: Needs `forget` items with a prompt and an answer, and `retain` ones unless `retain_weight` is 0.
        refusals: What to prefer; at least one.
        beta: Above 0; published 0.1. The loss lets go of a pair once `beta Delta` is well above 1, and a refusal alone
            gains as many nats as it starts out with: where that is above some 30, at 0.1 the refusal is learned and
            every answer kept. `auto` is 4 over the refusals' mean NLL at the start, and at most 1.
        scale: Of the loss: `2/beta`, or `1` as the first release has it; a learning rate does not transfer.
        retain_weight: Weight of the retain term; 0 leaves it out.
        training: Settings of `train`; here `lr` is 3e-4 and `epochs` 20. Published: lr 1e-5, 5 to 10 epochs of batches
            of 32, for models of some billion parameters.

    Raises:
        VestigeError: Nothing to refuse, a split has no item with an answer, a setting is wrong, or training diverged.

    Source:
        Maini et al. 2024, *TOFU*, arXiv:2401.06121, which has a hundred refusals and no retain term.
    """
    check_weights(data, method="idk_dpo", retain_weight=retain_weight)
    data, replies = answered_and_refused(data, refusals, seed=training.get("seed", 0), method="idk_dpo")
    reference_idk, reference_forget = reference_nll(model, replies), reference_nll(model, data.forget)

    sharpness = _relative(reference_idk) if beta == "auto" else positive(beta)

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        idk = encode(current, [replies[row] for row in batch.rows.tolist()])
        preference = idk_dpo_loss(
            answer_nll(current.logits(idk), idk.ids, idk.answer),
            forget_nll(current, batch),
            reference_idk=reference_idk[batch.rows],
            reference_forget=reference_forget[batch.rows],
            beta=sharpness,
            scale=scale,
        )
        return preference + retained(current, batch, weight=retain_weight)

    needs = ("forget", "retain", "reference") if retain_weight > 0 else ("forget", "reference")
    settings = {"refusals": tuple(refusals), "beta": sharpness, "scale": scale, "retain_weight": retain_weight}
    spec = Spec("idk_dpo", "removal", needs, "Maini et al. 2024, arXiv:2401.06121", settings)
    return learned(model, data, loss, spec, training, defaults={"lr": 3e-4, "epochs": 20.0})


def _relative(reference_idk: AnswerNLL) -> float:
    """Return the beta with which refusals that have become certain take `sigmoid(beta Delta)` to 0.98, not to 1."""
    return min(1.0, 4 / max(float(reference_idk.total.mean()), 1e-9))
