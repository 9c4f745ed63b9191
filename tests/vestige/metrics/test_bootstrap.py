"""Bootstrap intervals: known standard errors, coverage, pairing, seeds, and when there is no interval."""

import numpy as np
import pytest

from hooked.errors import VestigeError
from vestige.metrics.bootstrap import combined_interval, mean_interval, ratio_interval
from vestige.metrics.utility import harmonic_mean


@pytest.fixture
def normal() -> np.random.Generator:
    return np.random.default_rng(20)


def test_standard_error_and_width_are_those_of_a_mean(normal: np.random.Generator) -> None:
    values = normal.normal(3, 2, size=400)
    interval = mean_interval(values)
    assert interval.estimate == pytest.approx(values.mean())
    assert interval.standard_error == pytest.approx(values.std() / 20, rel=0.1)
    assert interval.low is not None
    assert interval.high is not None
    assert interval.low < values.mean() < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert (interval.n, interval.note) == (400, "")


def test_intervals_cover_the_truth_about_as_often_as_they_say(normal: np.random.Generator) -> None:
    hits = 0
    for trial in range(200):
        interval = mean_interval(normal.random(60), seed=trial, resamples=400)
        assert interval.low is not None
        assert interval.high is not None
        hits += interval.low <= 0.5 <= interval.high
    assert 0.89 <= hits / 200 <= 0.99


def test_a_seed_fixes_the_interval_and_another_moves_it(normal: np.random.Generator) -> None:
    values = normal.random(30)
    assert mean_interval(values, seed=4) == mean_interval(values, seed=4)
    assert mean_interval(values, seed=4).low != mean_interval(values, seed=5).low


def test_global_random_state_is_left_alone(normal: np.random.Generator) -> None:
    before = repr(np.random.get_state())
    mean_interval(normal.random(10))
    assert repr(np.random.get_state()) == before


def test_resampling_in_blocks_covers_every_resample(
    normal: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = normal.random(40)
    whole = mean_interval(values)
    monkeypatch.setattr("vestige.metrics.bootstrap._BLOCK", 41 * 7)
    assert mean_interval(values) == whole


def test_one_item_has_an_estimate_but_no_interval() -> None:
    interval = mean_interval([0.7])
    assert (interval.estimate, interval.low, interval.high, interval.standard_error) == (0.7, None, None, None)
    assert "at least 2 items" in interval.note


def test_equal_items_have_an_interval_of_no_width() -> None:
    interval = mean_interval([0.25] * 6)
    assert (interval.low, interval.estimate, interval.high, interval.standard_error) == (0.25, 0.25, 0.25, 0)


def test_a_harmonic_mean_of_several_sets(normal: np.random.Generator) -> None:
    retain, facts = normal.uniform(0.4, 1, size=(50, 2)), normal.uniform(0.2, 1, size=30)
    interval = combined_interval([retain, facts], statistic=harmonic_mean)
    means = [*retain.mean(0), facts.mean()]
    assert interval.estimate == pytest.approx(harmonic_mean(means))
    assert interval.low is not None
    assert interval.high is not None
    assert 0.4 < interval.low < harmonic_mean(means) < interval.high < 1
    assert interval.n == 80
    assert combined_interval([retain, [0.5]], statistic=harmonic_mean).low is None


def test_scores_of_one_item_are_resampled_together(normal: np.random.Generator) -> None:
    score = normal.random(40)
    difference = combined_interval([np.stack([score, score], 1)], statistic=lambda m: float(m[0] - m[1]))
    apart = combined_interval([score, score], statistic=lambda m: float(m[0] - m[1]))
    assert difference.standard_error == 0
    assert apart.standard_error is not None
    assert apart.standard_error > 0.03


def test_a_ratio_of_paired_items_cancels_what_they_share(normal: np.random.Generator) -> None:
    bottom = normal.uniform(0.5, 1.5, size=60)
    exact = ratio_interval(0.4 * bottom, bottom)
    assert exact.estimate == pytest.approx(0.4)
    assert exact.low == pytest.approx(0.4)
    assert exact.high == pytest.approx(0.4)
    loose = ratio_interval(0.4 * normal.permutation(bottom), bottom)
    assert loose.standard_error is not None
    assert loose.standard_error > 0.01


@pytest.mark.parametrize(("shift", "identified"), [(-2.0, False), (0.0, False), (0.2, False), (0.4, True), (2.0, True)])
def test_a_denominator_below_three_standard_errors_is_not_identified(shift: float, identified: bool) -> None:
    """100 items of standard deviation 1: the standard error is 0.1, so the line is at 0.3."""
    values = np.tile([-1.0, 1.0], 50)
    interval = ratio_interval(np.ones(100), values + shift)
    assert (interval.estimate is not None) == identified
    assert interval.note.startswith("not identified: the denominator") != identified
    assert (interval.low is not None) == identified
    assert interval.n == 100


def test_a_ratio_without_spread_or_items() -> None:
    assert ratio_interval([1.0, 1.0], [2.0, 2.0]).estimate == 0.5
    assert ratio_interval([1.0, 1.0], [0.0, 0.0]).estimate is None
    assert ratio_interval([1.0], [2.0]).estimate is None
    assert "at least 2 items" in ratio_interval([1.0], [2.0]).note


def test_resamples_where_the_denominator_vanishes_are_harmless() -> None:
    """A few of many resamples draw only zeros; the ratio there is 0/0."""
    known = [0.0, 1.0, 1.0, 1.0]
    interval = ratio_interval(known, known, resamples=5000)
    assert interval.estimate == interval.low == interval.high == 1


def test_useless_settings_are_refused() -> None:
    with pytest.raises(VestigeError, match=r"level must be between 0 and 1, got 95\.0"):
        mean_interval([1.0, 2.0], level=95.0)
    with pytest.raises(VestigeError, match=r"level 0\.95 needs at least 40 resamples, got 10"):
        mean_interval([1.0, 2.0], resamples=10)
    with pytest.raises(VestigeError, match="at least one group"):
        combined_interval([], statistic=harmonic_mean)
    with pytest.raises(VestigeError, match="group 1 has nan at item 0"):
        combined_interval([[1.0], [float("nan")]], statistic=harmonic_mean)
