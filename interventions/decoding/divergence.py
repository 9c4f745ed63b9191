"""How far apart two distributions over next tokens are, and which of several is the furthest away."""

from __future__ import annotations

from collections.abc import Iterable
from math import log
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

Divergence = Literal["jensen_shannon", "released"]


def jensen_shannon(
    log_p: Float[Tensor, "*batch d_vocab"], log_q: Float[Tensor, "*batch d_vocab"]
) -> Float[Tensor, "*batch"]:
    """Return `(KL(p || m) + KL(q || m)) / 2`, m the mean of p and q, in nats; between 0 and log 2."""
    log_m = torch.logaddexp(log_p, log_q) - log(2)
    return (_kl(log_p, log_m) + _kl(log_q, log_m)) / 2


def reversed_jensen_shannon(
    log_p: Float[Tensor, "*batch d_vocab"], log_q: Float[Tensor, "*batch d_vocab"]
) -> Float[Tensor, "*batch"]:
    """Return `(KL(m || p) + KL(m || q)) / 2`, in nats: what the release of DoLa computes, by arguments in reverse."""
    log_m = torch.logaddexp(log_p, log_q) - log(2)
    return (_kl(log_m, log_p) + _kl(log_m, log_q)) / 2


def furthest(
    log_p: Float[Tensor, "*batch d_vocab"],
    candidates: Iterable[Float[Tensor, "*batch d_vocab"]],
    *,
    divergence: Divergence = "jensen_shannon",
) -> Float[Tensor, "*batch d_vocab"]:
    """Return at each position the candidate furthest from p; of equally far ones the first.

    Args:
        log_p: Log-probabilities.
        candidates: Log-probabilities; at least one. Only two are in memory at a time.
        divergence: `released` ranks as DoLa's release does within one row; there the batch is averaged over too.
    """
    distance = jensen_shannon if divergence == "jensen_shannon" else reversed_jensen_shannon
    ordered = iter(candidates)
    best = next(ordered)
    most = distance(log_p, best)
    for candidate in ordered:
        far = distance(log_p, candidate)
        best = torch.where((far > most)[..., None], candidate, best)
        most = torch.maximum(far, most)
    return best


def _kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p || q), where a token of probability 0 under p counts nothing."""
    return torch.where(log_p > -torch.inf, log_p.exp() * (log_p - log_q), 0.0).sum(-1)
