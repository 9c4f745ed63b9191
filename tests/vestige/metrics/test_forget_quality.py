"""Forget quality: the exact p against SciPy and brute force, its floor, and what it is invariant to."""

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp

from hooked.errors import VestigeError
from vestige.metrics.forget_quality import forget_quality, smallest_log10_p, smallest_p

SAMPLES = st.lists(st.integers(0, 9).map(float), min_size=4, max_size=30)


@given(SAMPLES, SAMPLES)
def test_agrees_with_scipy_ties_included(x: list[float], y: list[float]) -> None:
    ours = forget_quality(x, y)
    assert 10**ours.log10_p == pytest.approx(ours.p, rel=1e-9)
    try:
        scipy = ks_2samp(x, y, method="exact")
    except RuntimeWarning:
        # SciPy's sum rounds to just above 1 here, and it falls back on the asymptotic p.
        assert ours.p == pytest.approx(1, abs=1e-12)
        return
    assert ours.statistic == pytest.approx(scipy.statistic, abs=1e-12)
    assert ours.p == pytest.approx(scipy.pvalue, rel=1e-9)


@pytest.mark.parametrize(("n", "m"), [(40, 40), (400, 400), (300, 400), (97, 13)])
@pytest.mark.parametrize("shift", [0.0, 0.3, 2.0])
def test_agrees_with_scipy_at_the_sizes_of_the_benchmarks(n: int, m: int, shift: float) -> None:
    rng = np.random.default_rng(n + m)
    x, y = rng.normal(size=n), rng.normal(size=m) + shift
    assert forget_quality(x, y).p == pytest.approx(ks_2samp(x, y, method="exact").pvalue, rel=1e-8)


@pytest.mark.parametrize(("n", "m"), [(4, 4), (4, 5), (6, 4)])
def test_p_is_the_share_of_orderings_at_least_as_far_apart(n: int, m: int) -> None:
    places = range(n + m)

    def distance(chosen: tuple[int, ...]) -> int:
        steps = [m if place in chosen else -n for place in places]
        return int(np.abs(np.cumsum(steps)).max())

    orderings = list(combinations(places, n))
    distances = np.array([distance(chosen) for chosen in orderings])
    for chosen in orderings[::7]:
        rest = [place for place in places if place not in chosen]
        expected = np.mean(distances >= distance(chosen))
        assert forget_quality(list(chosen), rest).p == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(
    ("n", "p"), [(20, 1.45e-11), (40, 1.86e-23), (100, 2.21e-59), (200, 1.94e-119), (300, 1.48e-179), (400, 1.06e-239)]
)
def test_samples_that_do_not_overlap_sit_on_the_floor(n: int, p: float) -> None:
    apart = forget_quality(np.arange(n), np.arange(n) + 1000)
    assert smallest_p(n, n) == pytest.approx(p, rel=5e-3)
    assert apart.p == pytest.approx(smallest_p(n, n), rel=1e-9)
    assert apart.log10_p == pytest.approx(apart.floor_log10_p, abs=1e-9)
    assert apart.at_floor
    assert not forget_quality(np.arange(n), np.arange(n) + 1).at_floor


def test_log10_p_stays_finite_where_p_underflows() -> None:
    quality = forget_quality(np.arange(1000), np.arange(1200) + 5000)
    assert quality.p == 0
    assert quality.log10_p == pytest.approx(smallest_log10_p(1000, 1200), abs=1e-6)
    assert -700 < quality.log10_p < -600


def test_the_same_sample_has_p_one() -> None:
    same = forget_quality([1.0, 2.0, 2.0, 3.0], [2.0, 1.0, 3.0, 2.0])
    assert (same.statistic, same.p, same.log10_p, same.n, same.m) == (0, 1, 0, 4, 4)


@given(SAMPLES, SAMPLES)
def test_only_ranks_count(x: list[float], y: list[float]) -> None:
    a, b = np.array(x) + 1, np.array(y) + 1
    expected = forget_quality(a, b)
    assert forget_quality(np.log(a), np.log(b)) == expected
    assert forget_quality(b, a).log10_p == pytest.approx(expected.log10_p, abs=1e-9)
    assert forget_quality(1 / a, 1 / b).log10_p == pytest.approx(expected.log10_p, abs=1e-9)


def test_infinite_ratios_are_ranked_last() -> None:
    assert forget_quality([1, 2, 3, math.inf], [1, 2, 3, math.inf]).p == 1
    assert forget_quality([1, 2, 3, math.inf], [1, 2, 3, 9]) == forget_quality([1, 2, 3, 99], [1, 2, 3, 9])


def test_the_same_shift_has_a_smaller_p_with_more_items() -> None:
    rng = np.random.default_rng(0)
    log10_p = {
        n: np.median([forget_quality(rng.normal(size=n), rng.normal(0.3, size=n)).log10_p for _ in range(31)])
        for n in (40, 400)
    }
    assert log10_p[40] > -1.3
    assert log10_p[400] < -2


def test_samples_too_small_to_ever_differ_are_refused() -> None:
    assert smallest_p(3, 3) == 0.1
    with pytest.raises(VestigeError, match=r"of 3 against 3 items never gets below p = 0\.1"):
        forget_quality([1, 2, 3], [4, 5, 6])
    with pytest.raises(VestigeError, match="of 1 against 10 items"):
        forget_quality([1], range(10))
    with pytest.raises(VestigeError, match="m must be a number of items of at least 1, got 0"):
        smallest_p(3, 0)
