"""The AUC against scikit-learn, its bootstrap, and why folds are never pooled."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from probes.auc import bootstrap_auc, within_fold_auc


def test_one_fold_equals_scikit_learn_ties_included() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = rng.integers(0, 6, 40).astype(float)
        positive = rng.random(40) < 0.4
        folds = np.zeros(40, dtype=int)
        found = within_fold_auc(scores[:, None], positive[:, None], folds)
        assert found == pytest.approx(roc_auc_score(positive, scores))
        assert within_fold_auc(-scores[:, None], positive[:, None], folds) == pytest.approx(1 - found)


def test_folds_are_weighted_by_their_pairs_and_never_compared() -> None:
    # Within each fold the order is perfect; fold 1 lies far above fold 0.
    scores = np.array([0.0, 1.0, 10.0, 11.0, 12.0])[:, None]
    positive = np.array([False, True, False, False, True])[:, None]
    assert within_fold_auc(scores, positive, np.array([0, 0, 1, 1, 1])) == 1.0
    assert roc_auc_score(positive[:, 0], scores[:, 0]) < 1
    # One pair of fold 0 lost, two pairs of fold 1 won.
    scores[:2] = scores[1::-1]
    assert within_fold_auc(scores, positive, np.array([0, 0, 1, 1, 1])) == pytest.approx(2 / 3)


def test_rows_without_score_and_untested_rows_do_not_count() -> None:
    scores = np.array([0.0, 1.0, np.nan, -5.0])[:, None]
    positive = np.array([False, True, False, True])[:, None]
    assert within_fold_auc(scores, positive, np.array([0, 0, 0, -1])) == 1.0
    assert np.isnan(within_fold_auc(scores, ~positive & positive, np.zeros(4, dtype=int)))


def test_classes_are_averaged() -> None:
    scores = np.array([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]])
    positive = np.array([[True, True], [False, False], [False, False]])
    folds = np.zeros(3, dtype=int)
    assert within_fold_auc(scores, positive, folds) == pytest.approx((1.0 + 0.0) / 2)


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    # Scores N(1, 1) against N(0, 1): the AUC is Phi(1 / sqrt 2) = 0.76.
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        scores = np.concatenate([rng.normal(0, 1, 40), rng.normal(1, 1, 40)])[:, None]
        positive = (np.arange(80) >= 40)[:, None]
        folds, groups = np.zeros(80, dtype=int), np.arange(80)
        low, high = bootstrap_auc(scores, positive, folds, groups, resamples=200, rng=rng)
        covered += low <= 0.76025 <= high
    assert 85 <= covered <= 100


def test_repeating_rows_within_groups_does_not_narrow_the_interval() -> None:
    rng = np.random.default_rng(2)
    scores, positive = rng.normal(size=(50, 1)), (np.arange(50) % 2 == 0)[:, None]
    groups = np.arange(50)

    def width(times: int, by_row: bool) -> float:
        rows = np.repeat(np.arange(50), times)
        owner = np.arange(len(rows)) if by_row else groups[rows]
        low, high = bootstrap_auc(
            scores[rows],
            positive[rows],
            np.zeros(len(rows), dtype=int),
            owner,
            resamples=400,
            rng=np.random.default_rng(3),
        )
        return high - low

    assert width(9, by_row=False) == pytest.approx(width(1, by_row=False), rel=0.05)
    assert width(9, by_row=True) < 0.5 * width(1, by_row=False)


def test_no_resample_with_two_classes_gives_no_interval() -> None:
    low, high = bootstrap_auc(
        np.zeros((2, 1)),
        np.ones((2, 1), dtype=bool),
        np.zeros(2, dtype=int),
        np.arange(2),
        resamples=5,
        rng=np.random.default_rng(0),
    )
    assert np.isnan([low, high]).all()
