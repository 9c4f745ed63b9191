"""MC1, MC2 and MC3: hand values, ties, what they do not depend on, their floors, and the ends of the scale."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooked.errors import VestigeError
from vestige.metrics.multiple_choice import mc1, mc2, mc3

SCORES = st.lists(st.floats(-60, 0), min_size=1, max_size=6)


def test_hand_values() -> None:
    true, false = [math.log(0.4), math.log(0.1)], [math.log(0.3), math.log(0.2)]
    assert mc1(true[0], false) == 1
    assert mc1(true[1], false) == 0
    assert mc2(true, false) == pytest.approx(0.5)
    assert mc2(true[:1], false) == pytest.approx(4 / 9)
    assert mc3(true, false) == 0.5
    assert mc3(true, false[1:]) == 0.5
    assert mc3(true, [math.log(0.05)]) == 1


def test_arrays_give_what_lists_give_and_stay_as_they_were() -> None:
    true, false = np.array([-1.0, -3.0]), np.array([-2.0, -2.5, -9.0])
    for array in (true, false):
        array.setflags(write=False)
    assert mc1(-1.0, false) == mc1(-1.0, false.tolist())
    for metric in (mc2, mc3):
        assert metric(true, false) == metric(true.tolist(), false.tolist())


def test_sums_are_compared_and_not_means() -> None:
    """A long right answer of likely tokens can lose against one unlikely word, as in the benchmark."""
    long, word = 10 * math.log(0.7), math.log(0.1)
    assert long / 10 > word
    assert mc1(long, [word]) == 0


def test_a_tie_is_no_win() -> None:
    assert mc1(-1.0, [-1.0]) == mc3([-1.0], [-1.0]) == 0
    assert mc2([-1.0], [-1.0]) == 0.5


@given(true=SCORES, false=SCORES)
def test_ranges_and_their_order(true: list[float], false: list[float]) -> None:
    share, wins = mc2(true, false), mc3(true, false)
    assert 0 <= share <= 1
    assert wins * len(true) == pytest.approx(sum(mc1(one, false) for one in true))
    if wins == 1:
        assert share >= len(true) / (len(true) + len(false)) - 1e-12
    assert share + mc2(false, true) == pytest.approx(1)


@given(true=SCORES, false=SCORES, shift=st.floats(-2000, 0))
def test_a_common_factor_of_all_probabilities_cancels(true: list[float], false: list[float], shift: float) -> None:
    """Also far below the smallest positive number, where probabilities themselves would all be 0."""
    moved = [np.round(np.add(np.round(scores, 3), np.round(shift)), 3) for scores in (true, false)]
    true, false = [list(np.round(scores, 3)) for scores in (true, false)]
    assert mc2(moved[0], moved[1]) == pytest.approx(mc2(true, false), rel=1e-9)
    assert mc3(moved[0], moved[1]) == mc3(true, false)


@pytest.mark.parametrize("n_false", [1, 3])
def test_chance_scores_the_floor(n_false: int) -> None:
    draws = -np.random.default_rng(0).exponential(size=(4000, 2 + n_false))
    rows = [(row[:2], row[2:]) for row in draws]
    assert np.mean([mc1(true[0], false) for true, false in rows]) == pytest.approx(1 / (1 + n_false), abs=0.02)
    assert np.mean([mc3(true, false) for true, false in rows]) == pytest.approx(1 / (1 + n_false), abs=0.02)
    assert np.mean([mc2(true, false) for true, false in rows]) == pytest.approx(2 / (2 + n_false), abs=0.02)
    assert mc2([-3.0, -3.0], [-3.0] * n_false) == pytest.approx(2 / (2 + n_false))


def test_the_ends_of_the_scale() -> None:
    assert mc1(-5000.0, [-math.inf]) == mc2([-5000.0], [-math.inf]) == mc3([-5000.0], [-math.inf]) == 1
    assert mc1(-math.inf, [-1.0]) == mc2([-math.inf], [-1.0]) == mc3([-math.inf], [-1.0]) == 0
    assert mc1(-math.inf, [-math.inf]) == 0
    with pytest.raises(VestigeError, match="every listed one has probability 0"):
        mc2([-math.inf], [-math.inf])


@pytest.mark.parametrize("metric", [lambda t, f: mc1(t[0], f), mc2, mc3])
def test_what_is_no_log_probability_is_refused(metric: Callable[[list[float], list[float]], float]) -> None:
    with pytest.raises(VestigeError, match=r"sums of log-probabilities, which are at most 0, got 2 at item 1; were"):
        metric([-1.0], [-1.0, 2.0])
    with pytest.raises(VestigeError, match=r"at most 0, got 3 at item 0"):
        metric([3.0], [-1.0])
    with pytest.raises(VestigeError, match="false has nan at item 1"):
        metric([-1.0], [-1.0, math.nan])
    with pytest.raises(VestigeError, match="false needs a non-empty array"):
        metric([-1.0], [])
    # A logarithm of a sure token may come out a little above 0.
    assert metric([1e-6], [-1.0]) > 0.5
