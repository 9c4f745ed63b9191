"""Item-level bootstrap intervals: how much a number would move had other items been drawn.

They cover the choice of items, not that of training seeds. Percentile intervals; a fixed seed gives fixed numbers,
and the same resamples for every subject with as many items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from hooked.errors import VestigeError

from ._checks import check_same_length, numbers

_MIN_ERRORS = 3.0
_BLOCK = 1_000_000
_ONE_ITEM = "no interval: it takes at least 2 items"


@dataclass(frozen=True)
class Interval:
    """An estimate with its bootstrap interval.

    Args:
        estimate: None where it is not identified, and then `note` says why.
        low: Lower percentile; None with fewer than 2 items.
        high: Upper percentile; likewise.
        standard_error: Standard deviation over resamples; likewise.
        n: Number of items.
        note: Why something is None, in one sentence.
    """

    estimate: float | None
    low: float | None
    high: float | None
    standard_error: float | None
    n: int
    note: str = ""


def mean_interval(values: npt.ArrayLike, *, seed: int = 0, resamples: int = 1000, level: float = 0.95) -> Interval:
    """Return the mean of the items with its interval.

    Args:
        values: One value per item `[n_items]`.
        seed: Of the resampling.
        resamples: Number of resamples.
        level: Coverage of the interval.

    Raises:
        VestigeError: No item, NaN or infinity (the item is named), or too few resamples for the level.
    """
    items = numbers(values, "values")
    return combined_interval(
        [items], statistic=lambda means: float(means[0]), seed=seed, resamples=resamples, level=level
    )


def combined_interval(
    groups: Sequence[npt.ArrayLike],
    *,
    statistic: Callable[[Float[np.ndarray, " n_scores"]], float],
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Return a function of several means with its interval, e.g. the harmonic mean of scores on several data sets.

    Args:
        groups: One array per data set, `[n_items]` or `[n_items, n_scores]`. Scores of one item are resampled together,
            data sets apart.
        statistic: From the means, in order of groups and scores, to a number.
        seed: Of the resampling.
        resamples: Number of resamples.
        level: Coverage of the interval.

    Raises:
        VestigeError: No group or item, NaN or infinity, or too few resamples for the level.
    """
    tables = [_table(group, f"group {index}") for index, group in enumerate(groups)]
    if not tables:
        raise VestigeError("a bootstrap needs at least one group of items, got none")
    _check_settings(resamples, level)
    estimate = float(statistic(np.concatenate([table.mean(0) for table in tables])))
    n = sum(len(table) for table in tables)
    if min(len(table) for table in tables) < 2:
        return Interval(estimate, None, None, None, n, _ONE_ITEM)
    draws = np.array([statistic(means) for means in _resampled_means(tables, seed, resamples)])
    low, high = _percentiles(draws, level)
    return Interval(estimate, low, high, float(draws.std(ddof=1)), n)


def ratio_interval(
    numerator: npt.ArrayLike, denominator: npt.ArrayLike, *, seed: int = 0, resamples: int = 1000, level: float = 0.95
) -> Interval:
    """Return the ratio of two means over the same items, or None where the denominator is not clearly above 0.

    Items are resampled in pairs. "Not identified": the mean denominator is below 3 of its bootstrap standard errors, or
    not above 0.

    Args:
        numerator: One value per item `[n_items]`.
        denominator: One value per item, in the same order `[n_items]`.
        seed: Of the resampling.
        resamples: Number of resamples.
        level: Coverage of the interval.

    Raises:
        VestigeError: No item, different lengths, NaN or infinity, or too few resamples for the level.
    """
    top, bottom = numbers(numerator, "numerator"), numbers(denominator, "denominator")
    check_same_length(numerator=top, denominator=bottom)
    _check_settings(resamples, level)
    if len(top) < 2:
        return Interval(None, None, None, None, 1, "not identified: a ratio takes at least 2 items")
    draws = _resampled_means([np.stack([top, bottom], axis=1)], seed, resamples)
    mean, error = float(bottom.mean()), float(draws[:, 1].std(ddof=1))
    if mean <= 0 or mean < _MIN_ERRORS * error:
        note = f"not identified: the denominator {mean:.3g} is below 3 bootstrap standard errors of {error:.3g}"
        return Interval(None, None, None, None, len(top), note)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = draws[:, 0] / draws[:, 1]
    ratios = ratios[np.isfinite(ratios)]
    low, high = _percentiles(ratios, level)
    return Interval(float(top.mean() / mean), low, high, float(ratios.std(ddof=1)), len(top))


def _table(group: npt.ArrayLike, name: str) -> Float[np.ndarray, "n_items n_scores"]:
    ndim = np.ndim(group)
    table = numbers(group, name, ndim=2 if ndim == 2 else 1)
    return table if ndim == 2 else table[:, None]


def _resampled_means(
    tables: Sequence[Float[np.ndarray, "_n_items _n_scores"]], seed: int, resamples: int
) -> Float[np.ndarray, "resamples n_scores"]:
    """Means of resampled items; each table has a stream of its own, so adding one leaves the others' draws alone."""
    streams = np.random.default_rng(seed).spawn(len(tables))
    columns = [
        np.concatenate([table[index].mean(1) for index in _resampled_indices(stream, len(table), resamples)])
        for table, stream in zip(tables, streams, strict=True)
    ]
    return np.concatenate(columns, axis=1)


def _resampled_indices(stream: np.random.Generator, n: int, resamples: int) -> Iterator[npt.NDArray[np.int64]]:
    """Blocks of index rows: memory is bounded by the block, never resamples x items."""
    rows = max(1, _BLOCK // n)
    for start in range(0, resamples, rows):
        yield stream.integers(0, n, size=(min(rows, resamples - start), n))


def _percentiles(draws: Float[np.ndarray, " resamples"], level: float) -> tuple[float, float]:
    tail = (1 - level) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def _check_settings(resamples: int, level: float) -> None:
    if not 0 < level < 1:
        raise VestigeError(f"level must be between 0 and 1, got {level}")
    if resamples * (1 - level) < 2:
        raise VestigeError(
            f"an interval of level {level} needs at least {round(2 / (1 - level))} resamples, got {resamples}"
        )
