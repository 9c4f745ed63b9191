"""Unlearning losses as plain functions of tensors, all written to be minimised.

Losses of whole answers take `AnswerNLL` values, in which sums and means cannot be confused and a frozen reference model
is kept as one number per row. `answer_nll` makes those of logits, log-softmax included. Losses of single tokens take
logits, with their ids and answer mask.

    ell[b, t] = -log softmax(logits[b, t-1])[ids[b, t]]        nats; only where answer[b, t]
    S_b = sum_t ell,  n_b = number of answer tokens,  m_b = S_b / n_b
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked.errors import VestigeError

Reduction = Literal["mean", "token"]


@dataclass(frozen=True)
class AnswerNLL:
    """Negative log-likelihood of the answer tokens of each row, in nats. Build it with `answer_nll`.

    Args:
        total: S, the sum over the answer tokens of a row.
        count: n, the number of answer tokens of a row, at least 1.
    """

    total: Float[Tensor, " batch"]
    count: Int[Tensor, " batch"]

    @property
    def mean(self) -> Float[Tensor, " batch"]:
        """m = S / n, so that `exp(-m)` is the length-normalised probability of the answer."""
        return self.total / self.count

    def detach(self) -> AnswerNLL:
        """Return the same values cut from the graph, e.g. those of a frozen reference model."""
        return AnswerNLL(self.total.detach(), self.count)

    def __getitem__(self, rows: Tensor | slice) -> AnswerNLL:
        """Select rows, so that reference values computed once can be looked up per batch."""
        return AnswerNLL(self.total[rows], self.count[rows])


def answer_nll(
    logits: Float[Tensor, "batch pos d_vocab"], ids: Int[Tensor, "batch pos"], answer: Bool[Tensor, "batch pos"]
) -> AnswerNLL:
    """Score the answer tokens of each row: logits at position t-1 predict token t.

    Only the selected positions are read, so padding changes neither the value nor the gradient, even where its logits
    are NaN. Logits narrower than float32 are widened first.

    Args:
        logits: Next-token logits, in nats up to a constant per position.
        ids: Token ids; only those under `answer` must be real.
        answer: True on answer tokens; False at position 0, which nothing predicts.

    Raises:
        VestigeError: Shapes differ, `answer` is not boolean or marks position 0, a row has no answer token, or an
            answer id is outside the vocabulary (a label of -100 would otherwise count as a loss of 0).
    """
    nll = answer_token_nll(logits, ids, answer)
    per_token = nll.new_zeros(answer.shape)
    per_token[answer] = nll
    return AnswerNLL(per_token.sum(-1), answer.sum(-1))


def answer_token_nll(
    logits: Float[Tensor, "batch pos d_vocab"], ids: Int[Tensor, "batch pos"], answer: Bool[Tensor, "batch pos"]
) -> Float[Tensor, " tokens"]:
    """Score each answer token in nats, row after row: entry k belongs to the k-th True of `answer`.

    Raises:
        VestigeError: As `answer_nll`, which adds these up.
    """
    return F.cross_entropy(*answer_logits(logits, ids, answer), reduction="none")


def answer_logits(
    logits: Float[Tensor, "batch pos d_vocab"], ids: Int[Tensor, "batch pos"], answer: Bool[Tensor, "batch pos"]
) -> tuple[Float[Tensor, "tokens d_vocab"], Int[Tensor, " tokens"]]:
    """Select the logits that predict each answer token, in float32 or wider, and the tokens themselves.

    Raises:
        VestigeError: As `answer_nll`.
    """
    _check_answer(logits, ids, answer)
    chosen, labels = at_least_float32(logits[predicting(answer)]), ids[answer].long()
    outside = (labels < 0) | (labels >= logits.shape[-1])
    if outside.any():
        bad = int(labels[outside][0])
        raise VestigeError(f"answer token ids must be in 0..{logits.shape[-1] - 1}, got {bad}; mask it out of `answer`")
    return chosen, labels


def predicting(answer: Bool[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"]:
    """Mark the positions whose logits predict an answer token, i.e. `answer` moved one step to the left."""
    return F.pad(answer[:, 1:], (0, 1), value=False)


def cross_entropy(nll: AnswerNLL, *, reduction: Reduction = "mean") -> Float[Tensor, ""]:
    """Average the answer NLL, in nats per token.

    Args:
        nll: From `answer_nll`.
        reduction: `mean` averages the row means, `mean_b m_b`, so that every answer weighs the same. `token` is `sum
            S_b / sum n_b`, what Hugging Face `.loss` returns, where long answers weigh more.
    """
    if reduction == "mean":
        return nll.mean.mean()
    if reduction == "token":
        return nll.total.sum() / nll.count.sum()
    raise VestigeError(f"reduction must be 'mean' or 'token', got {reduction!r}")


def kl_retain(
    logits: Float[Tensor, "batch pos d_vocab"],
    reference_logits: Float[Tensor, "batch pos d_vocab"],
    mask: Bool[Tensor, "batch pos"],
) -> Float[Tensor, ""]:
    """Average the forward divergence `KL(p0 || p)` over the masked positions of all rows together, in nats.

    Args:
        logits: Of the model in training, on retain text.
        reference_logits: Of the frozen original on the same tokens; no gradient flows into it.
        mask: Positions to compare: the real tokens (`batch.mask`), or `predicting(batch.answer)` for the answers alone.
            TOFU and open-unlearning average over padding too, which this deliberately does not.

    Raises:
        VestigeError: Shapes differ, `mask` is not boolean, or a row has no masked position.

    Source:
        Maini et al., *TOFU*, arXiv:2401.06121.
    """
    if logits.shape != reference_logits.shape:
        raise VestigeError(
            f"logits {_shape(logits)} and reference logits {_shape(reference_logits)} must have one shape"
        )
    _check_mask("mask", logits, mask)
    log_p = at_least_float32(logits[mask]).log_softmax(-1)
    log_p0 = at_least_float32(reference_logits.detach()[mask]).log_softmax(-1)
    return F.kl_div(log_p, log_p0, reduction="none", log_target=True).sum(-1).mean()


def _check_answer(logits: Tensor, ids: Tensor, answer: Tensor) -> None:
    if ids.shape != answer.shape:
        raise VestigeError(f"ids {_shape(ids)} and answer mask {_shape(answer)} must have one shape")
    _check_mask("answer", logits, answer)
    if answer[:, 0].any():
        row = int(answer[:, 0].nonzero()[0])
        raise VestigeError(
            f"row {row} marks position 0 as answer, but nothing predicts it; prepend a prompt or BOS token"
        )


def _check_mask(name: str, logits: Tensor, mask: Tensor) -> None:
    if logits.ndim != 3 or mask.shape != logits.shape[:2]:
        raise VestigeError(
            f"logits must be [batch pos d_vocab] and {name} [batch pos], got {_shape(logits)} and {_shape(mask)}"
        )
    if mask.dtype != torch.bool:
        raise VestigeError(f"{name} must be a boolean mask, got {mask.dtype}")
    if len(mask) == 0:
        raise VestigeError("a loss needs at least one row, got an empty batch")
    empty = (~mask.any(-1)).nonzero().flatten().tolist()
    if empty:
        raise VestigeError(f"`{name}` marks nothing in row {empty[0]} of {len(mask)}; drop that row or mend its mask")


def check_same_rows(name: str, reference: AnswerNLL, current: AnswerNLL) -> None:
    """Refuse reference values of other rows.

    Raises:
        VestigeError: The numbers of answer tokens differ.
    """
    # A single reference row would broadcast silently, and equal shapes over different tokens would compare unrelated
    # answers.
    if reference.count.shape != current.count.shape or not torch.equal(reference.count, current.count):
        raise VestigeError(
            f"{name} must score the same answer tokens: it has {reference.count.tolist()} per row, "
            f"the model in training {current.count.tolist()}"
        )


def positive(beta: float) -> float:
    """Return a beta that can be divided by.

    Raises:
        VestigeError: It is not a finite number above 0.
    """
    if not 0 < beta < inf:
        raise VestigeError(f"beta must be a finite number above 0, got {beta}")
    return beta


def at_least_float32(values: Tensor) -> Tensor:
    """Widen narrower numbers, in which a log-softmax loses too much."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _shape(values: Tensor) -> list[int]:
    return list(values.shape)
