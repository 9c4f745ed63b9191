"""Membership AUC, PrivLeak and s_mia: hand values, orientation, and what happens where they mean nothing."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked.errors import VestigeError
from vestige.metrics.privacy import auc_member, null_standard_error, priv_leak, s_mia, won_pairs
from vestige.metrics.privacy_intervals import MemberScores, auc_interval, priv_leak_interval, s_mia_interval

SCORES = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=8)


def scores(auc: float, n: int = 40, m: int = 40) -> MemberScores:
    """Scores with this AUC, up to 1/n: a share of the forget items lies below the whole holdout, the rest above."""
    low = round(auc * n)
    forget = tuple(np.linspace(0, 0.1, low)) + tuple(np.linspace(2, 3, n - low))
    return MemberScores(forget, tuple(np.linspace(1, 1.5, m)))


def test_auc_by_hand() -> None:
    assert auc_member([0.1, 0.2, 0.4], [0.3, 0.5, 0.6]) == pytest.approx(8 / 9)
    assert auc_member([1.0], [1.0, 2.0]) == 0.75
    assert won_pairs([1.0], [0.0, 1.0, 2.0]).tolist() == [[0.0, 0.5, 1.0]]


@given(SCORES, SCORES)
def test_exchanging_the_sets_mirrors_the_auc_and_only_order_counts(forget: list[float], holdout: list[float]) -> None:
    auc = auc_member(forget, holdout)
    assert auc_member(holdout, forget) == pytest.approx(1 - auc)
    assert auc_member(np.exp(forget), np.exp(holdout)) == auc


def test_the_auc_is_that_of_scikit_learn(rng: torch.Generator) -> None:
    from sklearn.metrics import roc_auc_score

    draws = np.random.default_rng(rng.initial_seed()).integers(0, 9, 60).astype(float)
    assert auc_member(draws[:20], draws[20:]) == pytest.approx(roc_auc_score([0] * 20 + [1] * 40, draws))


def test_infinite_scores_are_the_highest_and_tie_with_each_other() -> None:
    assert auc_member([0.0, math.inf], [math.inf]) == 0.75


@pytest.mark.parametrize(("n", "m", "error"), [(40, 40, 0.065), (400, 400, 0.020)])
def test_standard_error_under_the_null(n: int, m: int, error: float) -> None:
    assert null_standard_error(n, m) == pytest.approx(error, abs=5e-4)
    # PrivLeak against a retrained model at 0.5: 13 points at 40 items a side.
    assert 100 * null_standard_error(40, 40) / 0.5 == pytest.approx(13, abs=0.1)


def test_the_standard_error_is_what_draws_show() -> None:
    draws = np.random.default_rng(0)
    aucs = [auc_member(draws.normal(size=12), draws.normal(size=20)) for _ in range(2000)]
    assert np.std(aucs) == pytest.approx(null_standard_error(12, 20), rel=0.06)


@pytest.mark.parametrize(("auc", "retrained", "value"), [(0.9, 0.5, -80), (0.1, 0.5, 80), (1.0, 0.3, -100)])
def test_priv_leak_by_hand(auc: float, retrained: float, value: float) -> None:
    assert priv_leak(auc, retrained) == pytest.approx(value)


def test_priv_leak_from_end_to_end_of_its_range() -> None:
    # MUSE's constants are one minus ours: news 0.4772, with 109.56 as the largest value.
    assert priv_leak(0.0, 1 - 0.4772) == pytest.approx(109.56, abs=0.01)
    assert priv_leak(0.0, 0.6) == pytest.approx(100 * 0.6 / 0.4)
    assert priv_leak(0.37, 0.37) == 0


@pytest.mark.parametrize(("auc", "retrained", "value"), [(0.9, 0.5, 0.2), (1.0, 0.5, 0.0), (0.4, 0.5, 0.8)])
def test_s_mia_by_hand(auc: float, retrained: float, value: float) -> None:
    assert s_mia(auc, retrained) == pytest.approx(value)


def test_intervals_hold_the_formulas() -> None:
    mine, theirs = scores(0.9), scores(0.5)
    assert auc_interval(mine).estimate == pytest.approx(0.9)
    leak, closeness = priv_leak_interval(mine, theirs), s_mia_interval(mine, theirs)
    assert leak.estimate == pytest.approx(priv_leak(0.9, 0.5))
    assert closeness.estimate == pytest.approx(s_mia(0.9, 0.5))
    for interval in (leak, closeness):
        assert interval.low is not None
        assert interval.high is not None
        assert interval.estimate is not None
        assert interval.low < interval.estimate < interval.high
        assert (interval.n, interval.note) == (80, "")
    assert priv_leak_interval(mine, theirs) == leak


def test_the_same_items_are_drawn_for_both_models() -> None:
    itself = priv_leak_interval(scores(0.6), scores(0.6))
    assert (itself.estimate, itself.low, itself.high) == (0, 0, 0)
    alone = priv_leak_interval(scores(0.6), None, assume_ref=0.6)
    assert alone.high is not None
    assert alone.high > 5


def test_no_retrained_model_is_no_comparison_unless_its_auc_is_assumed_aloud() -> None:
    for compared in (priv_leak_interval, s_mia_interval):
        with pytest.raises(VestigeError, match=r"needs the scores of a retrained model, or assume_ref= .*got neither"):
            compared(scores(0.9), None)
        with pytest.raises(VestigeError, match="got both"):
            compared(scores(0.9), scores(0.5), assume_ref=0.5)
    assert priv_leak_interval(scores(0.9), None, assume_ref=0.5).estimate == pytest.approx(-80)


def test_a_denominator_within_noise_gives_a_reason_and_no_number() -> None:
    # A published audit printed 5215.5 here.
    leak = priv_leak_interval(scores(0.1), scores(1.0))
    assert (leak.estimate, leak.low, leak.standard_error) == (None, None, None)
    assert leak.note.startswith(
        "not identified: one minus the retrained model's AUC is 0, below 3 null standard errors"
    )
    closeness = s_mia_interval(scores(0.1), scores(0.0))
    assert closeness.estimate is None
    assert "the retrained model's AUC is 0" in closeness.note


def test_a_model_that_scores_every_text_alike_has_no_auc() -> None:
    flat = MemberScores((1.0, 1.0), (1.0, 1.0))
    for interval in (
        auc_interval(flat),
        priv_leak_interval(flat, None, assume_ref=0.5),
        priv_leak_interval(MemberScores((0.0, 1.0), (1.0, 2.0)), flat),
    ):
        assert interval.estimate is None
        assert "every score is 1, so the model tells no text from another" in interval.note


def test_an_auc_far_below_chance_says_so_and_one_within_noise_does_not() -> None:
    assert "7.7 null standard errors below chance" in auc_interval(scores(0.0)).note
    assert auc_interval(scores(0.45)).note == ""


def test_one_item_a_side_has_no_interval() -> None:
    one = auc_interval(MemberScores((0.0,), (1.0, 2.0)))
    assert (one.estimate, one.low) == (1.0, None)
    assert "at least 2 items a side" in one.note


def test_errors_are_one_line_and_say_what_came() -> None:
    with pytest.raises(VestigeError, match=r"forget scores needs a non-empty array"):
        auc_member([], [1.0])
    with pytest.raises(VestigeError, match="an AUC compares at least one item with one, got 0 with 3"):
        null_standard_error(0, 3)
    with pytest.raises(VestigeError, match=r"an AUC lies in \[0, 1\], got 1.2"):
        priv_leak(1.2, 0.5)
    with pytest.raises(VestigeError, match="divides by one minus the retrained model's AUC, which is 0"):
        priv_leak(0.5, 1.0)
    with pytest.raises(VestigeError, match="divides by the retrained model's AUC, which is 0"):
        s_mia(0.5, 0.0)
    with pytest.raises(VestigeError, match=r"assume_ref is an AUC in \[0, 1\], got 2"):
        priv_leak_interval(scores(0.5), None, assume_ref=2)
    with pytest.raises(VestigeError, match=r"must score the same items, got .*\(40, 40\), \(41, 40\)"):
        priv_leak_interval(scores(0.5), scores(0.5, n=41))
    with pytest.raises(VestigeError, match="level must be between 0 and 1, got 1"):
        auc_interval(scores(0.5), level=1)
