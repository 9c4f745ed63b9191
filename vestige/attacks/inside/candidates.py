"""Lists of exactly B candidates out of what several blocks show of every token, and what such lists hit by chance.

An attacker who may try B answers, password-style, wins where the right one is among them. Lists of one fixed length can
be compared; the union of everything that is near the top of some block cannot, since its length varies.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked import VestigeError

_MIN_PERMUTATIONS = 20


def differences(rows: Iterable[Tensor], order: int) -> Iterator[Tensor]:
    """Yield the differences of each row to the one before it, `order` times over; `order` rows fewer come out."""
    if order == 0:
        yield from rows
        return
    before: Tensor | None = None
    for row in differences(rows, order - 1):
        if before is not None:
            yield row - before
        before = row


class Ranking:
    """The best rank of every token over the statistics shown so far.

    A rank is the number of tokens strictly ahead, so ties share one; with both ends it counts from the nearer one.

    Args:
        both_ends: Whether a token that fell furthest is as suspicious as one that rose furthest.
    """

    def __init__(self, *, both_ends: bool) -> None:
        self._both_ends = both_ends
        self._rank: Tensor | None = None
        self._size = torch.empty(0)

    def add(self, values: Float[Tensor, "batch n_tokens"]) -> None:
        """Show one statistic of every token, for each item."""
        rank, size = _ranks(values, both_ends=self._both_ends), values.abs()
        if self._rank is None:
            self._rank, self._size = rank, size
            return
        better = (rank < self._rank) | ((rank == self._rank) & (size > self._size))
        self._rank, self._size = torch.where(better, rank, self._rank), torch.where(better, size, self._size)

    def first(self, budget: int) -> Int[Tensor, "batch budget"]:
        """Return exactly `budget` columns for each item, by best rank, then by absolute value there, then by column."""
        if self._rank is None:
            raise VestigeError("no block was read, so no token has a rank; give at least one block")
        # Sorts that keep order, from the last criterion to the first.
        order = torch.argsort(self._size, dim=-1, descending=True, stable=True)
        return order.gather(-1, torch.argsort(self._rank.gather(-1, order), dim=-1, stable=True))[:, :budget]


def _ranks(values: Float[Tensor, "batch n_tokens"], *, both_ends: bool) -> Int[Tensor, "batch n_tokens"]:
    ordered, values = values.sort(-1).values, values.contiguous()
    above = values.shape[-1] - torch.searchsorted(ordered, values, right=True)
    return torch.minimum(above, torch.searchsorted(ordered, values)) if both_ends else above


def hits(candidates: Int[Tensor, "n budget"], targets: Int[Tensor, " n"]) -> Bool[Tensor, " n"]:
    """Return whether each item's target is among its candidates."""
    return (candidates == targets[:, None]).any(-1)


def permutation_floor(
    candidates: Int[Tensor, "n budget"], targets: Int[Tensor, " n"], *, permutations: int = 20, seed: int
) -> tuple[float, float] | None:
    """Return the mean hit rate with the targets exchanged between items, and the 95th percentile over exchanges.

    What the answers have in common can be guessed without knowing any: this is the share of hits that it explains. An
    item may be handed its own target. None where there is one item.

    Args:
        candidates: Of each item.
        targets: Of each item.
        permutations: How many, at least 20.
        seed: Of the permutations.

    Raises:
        VestigeError: Fewer than 20 permutations.
    """
    if permutations < _MIN_PERMUTATIONS:
        raise VestigeError(f"a permutation floor needs at least {_MIN_PERMUTATIONS} permutations, got {permutations}")
    if len(targets) < 2:
        return None
    generator = torch.Generator().manual_seed(seed)
    orders = [torch.randperm(len(targets), generator=generator) for _ in range(permutations)]
    rates = np.array([float(hits(candidates, targets[order]).double().mean()) for order in orders])
    return float(rates.mean()), float(np.quantile(rates, 0.95))
