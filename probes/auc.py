"""Area under the ROC curve, within folds, with a bootstrap interval over groups."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float, Int

_RESAMPLES_AT_ONCE = 100


def within_fold_auc(
    scores: Float[np.ndarray, "n classes"], positive: Bool[np.ndarray, "n classes"], folds: Int[np.ndarray, " n"]
) -> float:
    """Return the chance that a positive row outscores a negative row of the same fold, ties counted half, averaged over
    classes.

    Scores of different folds come from different fits and are never compared: pooling them biases the AUC below 1/2
    under the null, since a fit's intercept leans against what was held out.

    Args:
        scores: Held-out scores, one column per class (one column in all for two classes); rows that were not scored
            hold NaN.
        positive: Which rows belong to the column's class.
        folds: Fold of each row; negative for rows that are not tested.

    Returns:
        NaN where no fold holds both a positive and a negative.
    """
    return float(_weighted(scores, positive, folds, np.ones((1, len(scores))))[0])


def bootstrap_auc(
    scores: Float[np.ndarray, "n classes"],
    positive: Bool[np.ndarray, "n classes"],
    folds: Int[np.ndarray, " n"],
    groups: Int[np.ndarray, " n"],
    *,
    resamples: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Return the 95 % percentile interval of `within_fold_auc` when the tested groups are drawn again with replacement.

    Groups, not rows: rows of one item carry one item's worth of evidence. The fits themselves are not repeated.
    """
    tested = np.unique(groups[folds >= 0])
    place = np.searchsorted(tested, groups).clip(max=len(tested) - 1)
    found: list[Float[np.ndarray, " resamples"]] = []
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        n = min(_RESAMPLES_AT_ONCE, resamples - start)
        counts = rng.multinomial(len(tested), np.full(len(tested), 1.0 / len(tested)), size=n)
        found.append(_weighted(scores, positive, folds, counts[:, place].astype(np.float64)))
    values = np.concatenate(found) if found else np.array([np.nan])
    values = values[~np.isnan(values)]
    if not len(values):
        return float("nan"), float("nan")
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _weighted(
    scores: Float[np.ndarray, "n classes"],
    positive: Bool[np.ndarray, "n classes"],
    folds: Int[np.ndarray, " n"],
    weights: Float[np.ndarray, "resamples n"],
) -> Float[np.ndarray, " resamples"]:
    areas = []
    for column in range(scores.shape[1]):
        won = np.zeros(len(weights))
        pairs = np.zeros(len(weights))
        for fold in np.unique(folds[folds >= 0]):
            rows = np.flatnonzero((folds == fold) & ~np.isnan(scores[:, column]))
            if len(rows):
                fold_won, fold_pairs = _won_pairs(scores[rows, column], positive[rows, column], weights[:, rows])
                won += fold_won
                pairs += fold_pairs
        areas.append(np.divide(won, pairs, out=np.full(len(weights), np.nan), where=pairs > 0))
    stacked = np.stack(areas)
    seen = ~np.isnan(stacked)
    total = np.where(seen, stacked, 0.0).sum(0)
    return np.asarray(np.divide(total, seen.sum(0), out=np.full(len(weights), np.nan), where=seen.any(0)))


def _won_pairs(
    scores: Float[np.ndarray, " n"], positive: Bool[np.ndarray, " n"], weights: Float[np.ndarray, "resamples n"]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.diff(scores[order], prepend=np.nan) != 0)
    above = np.add.reduceat(weights[:, order] * positive[order], starts, axis=1)
    below = np.add.reduceat(weights[:, order] * ~positive[order], starts, axis=1)
    lower = below.cumsum(1) - below
    return (above * (lower + 0.5 * below)).sum(1), above.sum(1) * below.sum(1)
