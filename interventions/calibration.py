"""How far a detector may reach: a distance below which at most a given share of retain items fires, and what it catches
on items it never saw."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from math import floor

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked import VestigeError

FOLDS = 5
NEVER = -1.0
# Part of the way from the item at the edge to the next one.
_NUDGE = 0.05

Rule = Callable[[Float[Tensor, " n"], float], float]
# Fits on the marked forget and retain items; returns the distances of all forget and of all retain items.
Distances = Callable[
    [Bool[Tensor, " n_forget"], Bool[Tensor, " n_retain"]],
    tuple[Float[Tensor, " n_forget"], Float[Tensor, " n_retain"]],
]


def order_statistic(distances: Float[Tensor, " n"], rate: float) -> float:
    """Return the `floor(rate * n)`-th smallest value, or `NEVER` where that is the 0-th.

    An interpolated quantile would let through one item too many in a small sample.
    """
    rank = _rank(len(distances), rate)
    return float(distances.sort().values[rank - 1]) if rank > 0 else NEVER


def _rank(n: int, rate: float) -> int:
    # Rounded, because 0.29 * 100 is a little below 29; a rate below 1 never lets in all of them.
    return min(floor(round(rate * n, 9)), n - 1)


def just_above(distances: Float[Tensor, " n"], rate: float) -> float:
    """Return the order statistic moved a twentieth of the way to the next value, or -infinity where it is the 0-th.

    The item at the edge fires by definition, and the rounding of another batch must not take that back.
    """
    rank, ordered = _rank(len(distances), rate), distances.double().sort().values
    return float(torch.lerp(ordered[rank - 1], ordered[rank], _NUDGE)) if rank > 0 else -torch.inf


def folds(n: int, generator: torch.Generator) -> Int[Tensor, " n"]:
    """Deal n items into folds of equal size at random."""
    return torch.randperm(n, generator=generator) % FOLDS


def held_out_rates(
    forget: Float[Tensor, "detectors n_forget"],
    retain: Float[Tensor, "detectors n_retain"],
    *,
    forget_fold: Int[Tensor, " n_forget"],
    retain_fold: Int[Tensor, " n_retain"],
    rate: float,
    rule: Rule = order_statistic,
) -> tuple[float | None, float | None]:
    """Return the true and false positive rate over all folds, each judged by the detector that never saw it.

    Both are None, with a warning, where the detector fires and that of a fold cannot: four fifths of so few retain
    items leave none to set its limit by.

    Args:
        forget: Distances of the forget items under the detector fitted without fold 0, without fold 1, ...
        retain: Those of the retain items.
        forget_fold: Fold of each forget item.
        retain_fold: Fold of each retain item.
        rate: As in `order_statistic`.
        rule: From the distances of retain items to the distance up to which a detector fires.
    """
    n_retain = retain.shape[1]
    fewest = min(int((retain_fold != fold).sum()) for fold in range(len(forget)))
    if _rank(n_retain, rate) > 0 and _rank(fewest, rate) <= 0:
        warnings.warn(
            f"the rates on held-out items are not known: a false positive rate of {rate} leaves none of {fewest} "
            f"of {n_retain} retain items to calibrate a fold on; raise the rate or give more retain items",
            UserWarning,
            stacklevel=4,
        )
        return None, None
    caught, refused = 0, 0
    for fold in range(len(forget)):
        limit = rule(retain[fold][retain_fold != fold], rate)
        caught += int((forget[fold][forget_fold == fold] <= limit).sum())
        refused += int((retain[fold][retain_fold == fold] <= limit).sum())
    return caught / forget.shape[1], refused / n_retain


@dataclass(frozen=True)
class Calibration:
    """Where a gate fires and what it catches.

    Args:
        limit: It fires up to this distance; -infinity where no retain item may fire.
        false_positive_rate: Largest fraction of the retain items that may fire, in [0, 1).
        heldout_true_positive_rate: Fraction of forget items that fire, each judged by a gate fitted and calibrated on
            four fifths of the items without it; None below five items of either split, and where four fifths of the
            retain items are too few for the rate.
        heldout_false_positive_rate: The same of retain items.
    """

    limit: float
    false_positive_rate: float
    heldout_true_positive_rate: float | None = None
    heldout_false_positive_rate: float | None = None


def check_rate(rate: float) -> None:
    """Refuse what is no false positive rate.

    Raises:
        VestigeError: It is below 0, or not below 1.
    """
    if not 0 <= rate < 1:
        raise VestigeError(f"false_positive_rate is a fraction of at least 0 and below 1, got {rate}")


def calibrated(
    distances: Distances, *, n_forget: int, n_retain: int, rate: float, seed: int, reads_retain: bool
) -> Calibration:
    """Calibrate a detector on all items, and see what it catches on items held out.

    A detector that was fitted on the retain items knows them, and keeps them further off than any new prompt. So its
    limit comes from detectors that were fitted without them, fold by fold; and from its own distances where those are
    stricter, so that the rate holds on the items at hand as well.

    Args:
        distances: Fits the detector on some items and measures all of them.
        n_forget: Number of forget items.
        n_retain: Number of retain items.
        rate: Largest fraction of retain items that may fire (barring ties).
        seed: Of the split into folds.
        reads_retain: Whether fitting depends on the retain items.

    Raises:
        VestigeError: The rate is out of range.
    """
    check_rate(rate)
    limit = just_above(distances(*(torch.ones(n, dtype=torch.bool) for n in (n_forget, n_retain)))[1], rate)
    if limit == -torch.inf:
        warnings.warn(
            f"this gate never fires: a false positive rate of {rate} leaves none of {n_retain} retain items to "
            "calibrate on; raise the rate or give more retain items",
            UserWarning,
            stacklevel=3,
        )
    if min(n_forget, n_retain) < FOLDS:
        return Calibration(limit, rate)
    generator = torch.Generator().manual_seed(seed)
    forget_fold, retain_fold = folds(n_forget, generator), folds(n_retain, generator)
    measured = [distances(forget_fold != fold, retain_fold != fold) for fold in range(FOLDS)]
    forget, retain = (torch.stack([pair[i] for pair in measured]) for i in range(2))
    if reads_retain:
        forget, retain = _unseen(forget, forget_fold), _unseen(retain, retain_fold)
        limit = min(limit, just_above(retain[0], rate))
    rates = held_out_rates(forget, retain, forget_fold=forget_fold, retain_fold=retain_fold, rate=rate, rule=just_above)
    return Calibration(limit, rate, *rates)


def _unseen(distances: Float[Tensor, "detectors n"], fold: Int[Tensor, " n"]) -> Float[Tensor, "detectors n"]:
    """Give every item the distance from the one detector that was fitted without it."""
    return distances.gather(0, fold[None]).expand_as(distances)
