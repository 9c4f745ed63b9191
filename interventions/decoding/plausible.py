"""Which tokens are likely enough to be said at all, so that a contrast of models cannot promote a nonsensical one."""

from __future__ import annotations

from dataclasses import dataclass
from math import floor, log

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked import VestigeError

# Nats by which a token that was dropped stays below every token that was kept. Sampling never draws it, and its
# log-probability is still a number, so that decoding and scoring speak of one distribution.
DROPPED = 1000.0


@dataclass(frozen=True)
class Plausible:
    """Rule for the tokens that stay.

    Args:
        ratio: A token stays if its probability is at least this fraction of the likeliest token's; above 0, at most 1.
        rank: Also let the `ratio * d_vocab` likeliest tokens stay, whatever their probability.
        by: Which of a combiner's terms has the probabilities.

    Raises:
        VestigeError: `ratio` is outside (0, 1].
    """

    ratio: float
    rank: bool = False
    by: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise VestigeError(f"a cutoff is a fraction above 0 and at most 1, got {self.ratio}; None drops no token")

    def keep(self, log_probs: Float[Tensor, "*batch d_vocab"]) -> Bool[Tensor, "*batch d_vocab"]:
        """Return True where a token stays: `lp >= min(k-th largest lp, max lp + log ratio)`.

        k is `max(1, floor(ratio * d_vocab))` with `rank`, else 1: the likeliest token always stays.
        """
        least = log_probs.amax(-1, keepdim=True) + log(self.ratio)
        if self.rank:
            # 0.29 * 100 is a little below 29 in floating point.
            k = max(1, floor(self.ratio * log_probs.shape[-1] + 1e-9))
            least = torch.minimum(least, log_probs.topk(k).values[..., -1:])
        return log_probs >= least


def drop(
    scores: Float[Tensor, "*batch d_vocab"], kept: Bool[Tensor, "*batch d_vocab"]
) -> Float[Tensor, "*batch d_vocab"]:
    """Give every token that does not stay the score of the lowest that does, minus `DROPPED`."""
    lowest = scores.detach().masked_fill(~kept, torch.inf).amin(-1, keepdim=True)
    return torch.where(kept, scores, lowest - DROPPED)
