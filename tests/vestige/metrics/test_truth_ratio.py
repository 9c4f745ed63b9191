"""Truth ratios: hand values, the order of the two means, orientation, and the ends of the scale."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooked.errors import VestigeError
from vestige.metrics.truth_ratio import closer_to_1, prob_mean, true_better, truth_ratio

NLLS = st.lists(st.floats(0, 50), min_size=1, max_size=6)


@pytest.mark.parametrize(
    ("base", "perturbed", "geometric", "arithmetic"),
    [(1.5, [1.0, 2.0], 1.0, 1.127626), (1.0, [1.0, 1.2, 1.4, 1.6, 1.8], 0.670320, 0.697438)],
)
def test_hand_values(base: float, perturbed: list[float], geometric: float, arithmetic: float) -> None:
    assert truth_ratio(base, perturbed) == pytest.approx(geometric, abs=1e-6)
    assert truth_ratio(base, perturbed, mean="arithmetic") == pytest.approx(arithmetic, abs=1e-6)


def test_hand_values_of_the_scores() -> None:
    ratio = truth_ratio(1.0, [1.0, 1.2, 1.4, 1.6, 1.8])
    assert closer_to_1([ratio]).item() == pytest.approx(0.670320, abs=1e-6)
    assert true_better([ratio]).item() == pytest.approx(0.329680, abs=1e-6)
    assert prob_mean([ratio]).item() == pytest.approx(0.598688, abs=1e-6)


@given(base=st.floats(0, 50), perturbed=NLLS)
def test_the_arithmetic_ratio_is_never_below_the_geometric_one(base: float, perturbed: list[float]) -> None:
    assert truth_ratio(base, perturbed, mean="arithmetic") >= truth_ratio(base, perturbed) * (1 - 1e-12)


@given(base=st.floats(0, 20), perturbed=st.floats(0, 20))
def test_one_wrong_answer_has_one_ratio(base: float, perturbed: float) -> None:
    expected = math.exp(base - perturbed)
    assert truth_ratio(base, [perturbed]) == pytest.approx(expected)
    assert truth_ratio(base, [perturbed], mean="arithmetic") == pytest.approx(expected)


@given(st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=8))
def test_swapping_right_and_wrong_mirrors_the_scores(ratios: list[float]) -> None:
    values, mirrored = np.array(ratios), 1 / np.array(ratios)
    np.testing.assert_allclose(closer_to_1(values), closer_to_1(mirrored), rtol=1e-12)
    np.testing.assert_allclose(prob_mean(values), 1 - prob_mean(mirrored), atol=1e-12)
    assert not np.any((true_better(values) > 0) & (true_better(mirrored) > 0))


def test_a_model_that_knows_scores_leaky_useful_and_not_forgotten() -> None:
    knows, blank = [truth_ratio(0.1, [4.0, 5.0])], [truth_ratio(4.0, [4.0, 4.0])]
    assert knows[0] < blank[0] == 1
    assert prob_mean(knows) > prob_mean(blank) == 0.5
    assert true_better(knows) > true_better(blank) == 0
    assert closer_to_1(knows) < closer_to_1(blank) == 1


def test_the_ends_of_the_scale() -> None:
    assert truth_ratio(math.inf, [1.0]) == math.inf
    assert truth_ratio(1.0, [math.inf]) == truth_ratio(1.0, [math.inf], mean="arithmetic") == 0
    assert truth_ratio(1.0, [1.0, math.inf], mean="arithmetic") == pytest.approx(0.5)
    assert truth_ratio(2000.0, [0.0]) == math.inf
    ends = [0.0, math.inf]
    assert closer_to_1(ends).tolist() == [0, 0]
    assert true_better(ends).tolist() == [1, 0]
    assert prob_mean(ends).tolist() == [1, 0]


def test_undefined_ratios_are_refused() -> None:
    for mean in ("geometric", "arithmetic"):
        with pytest.raises(VestigeError, match="0/0"):
            truth_ratio(math.inf, [math.inf, math.inf], mean=mean)
    with pytest.raises(VestigeError, match="base_nll cannot be below 0"):
        truth_ratio(-1.0, [1.0])
    with pytest.raises(VestigeError, match=r"cannot be below 0, got -0\.5 at item 1; were logs passed"):
        closer_to_1([1.0, -0.5])


@pytest.mark.usefixtures("untyped")
def test_an_unknown_mean_is_refused() -> None:
    with pytest.raises(VestigeError, match="'geometric' or 'arithmetic', got 'harmonic'"):
        truth_ratio(1.0, [1.0], mean="harmonic")  # type: ignore[arg-type]
