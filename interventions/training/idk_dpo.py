"""IDK-DPO: prefer a refusal over the true answer."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from hooked import VestigeError
from interventions.training.losses import AnswerNLL, check_same_rows, positive


def idk_dpo_loss(
    idk: AnswerNLL,
    forget: AnswerNLL,
    *,
    reference_idk: AnswerNLL,
    reference_forget: AnswerNLL,
    beta: float = 0.1,
    scale: Literal["2/beta", "1"] = "2/beta",
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
