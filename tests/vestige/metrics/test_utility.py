"""Model utility: hand values of the harmonic mean, and the zero rule."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooked.errors import VestigeError
from vestige.metrics.utility import harmonic_mean, model_utility

FRACTIONS = st.lists(st.floats(1e-3, 1), min_size=1, max_size=9)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.5] * 8 + [0.9], 0.525974),
        ([0.5] * 8 + [0.0], 0.0),
        ([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1], 0.318137),
        ([0.3], 0.3),
        ([0.5, 5e-324], 0.0),
    ],
)
def test_hand_values(values: list[float], expected: float) -> None:
    assert harmonic_mean(values) == pytest.approx(expected, abs=1e-6)


@given(FRACTIONS)
def test_lies_between_the_lowest_entry_and_the_mean(values: list[float]) -> None:
    assert min(values) * (1 - 1e-12) <= harmonic_mean(values) <= np.mean(values) * (1 + 1e-12)


def test_a_zero_is_named() -> None:
    parts = {"retain_probability": 0.9, "retain_rouge": 0.0, "facts_truth": 0.5}
    utility = model_utility(parts)
    assert utility.value == 0
    assert utility.zeros == ("retain_rouge",)
    parts["retain_rouge"] = 1.0
    assert utility.parts["retain_rouge"] == 0
    assert model_utility(parts).zeros == ()


def test_parts_outside_zero_to_one_are_refused() -> None:
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(VestigeError, match=r"part 'rouge' of the model utility must be in \[0, 1\]"):
            model_utility({"probability": 0.5, "rouge": bad})
    with pytest.raises(VestigeError, match="non-empty"):
        model_utility({})
    with pytest.raises(VestigeError, match="at least 0, got -1 at item 1"):
        harmonic_mean([1.0, -1.0])
