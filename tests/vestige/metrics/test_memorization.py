"""Exact memorisation and extraction strength: hand values, the release's missing case, and the slow definition."""

from collections.abc import Callable
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooked.errors import VestigeError
from vestige.metrics.memorization import exact_memorization, extraction_strength

FIXTURE_LABELS = [0, 1, 3]
FIXTURE_PREDICTIONS = {
    "current": np.argmax([[2, 1, 0, -1], [0, 1, 3, 0], [1, 1, 1, 1]], axis=-1),
    "original": np.argmax([[3, 1, 0, -1], [0, 2, 3, 0], [1, 1, 1, 2]], axis=-1),
}


@pytest.mark.parametrize(
    ("predictions", "strength", "release"),
    [
        ([1, 2, 3, 4], 1, 1),
        ([1, 9, 3, 4], 0.5, 0.5),
        ([9, 2, 3, 4], 0.75, 0.75),
        ([1, 2, 3, 9], 0, 0.25),
        ([9, 9, 9, 9], 0, 0.25),
    ],
)
def test_extraction_strength_by_hand(predictions: list[int], strength: float, release: float) -> None:
    assert extraction_strength(predictions, [1, 2, 3, 4]) == strength
    assert extraction_strength(predictions, [1, 2, 3, 4], es_floor="release") == release


@pytest.mark.parametrize(
    ("model", "exact", "strength", "release"), [("current", 1 / 3, 0, 1 / 3), ("original", 2 / 3, 1 / 3, 1 / 3)]
)
def test_the_fixture_of_the_losses(model: str, exact: float, strength: float, release: float) -> None:
    predictions = FIXTURE_PREDICTIONS[model]
    assert exact_memorization(predictions, FIXTURE_LABELS) == pytest.approx(exact)
    assert extraction_strength(predictions, FIXTURE_LABELS) == pytest.approx(strength)
    assert extraction_strength(predictions, FIXTURE_LABELS, es_floor="release") == pytest.approx(release)


@pytest.mark.parametrize("es_floor", ["zero", "release"])
@given(pairs=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12))
def test_extraction_strength_is_its_definition(
    es_floor: Literal["zero", "release"], pairs: list[tuple[int, int]]
) -> None:
    predictions, labels = ([pair[side] for pair in pairs] for side in (0, 1))
    n = len(pairs)
    last = n if es_floor == "zero" else n - 1
    k = next((k for k in range(n) if predictions[k:] == labels[k:]), last)
    assert extraction_strength(predictions, labels, es_floor=es_floor) == pytest.approx(1 - k / n)
    assert exact_memorization(predictions, labels) >= extraction_strength(predictions, labels)


def test_a_single_token() -> None:
    assert exact_memorization([7], [7]) == extraction_strength([7], [7]) == 1
    assert exact_memorization([7], [8]) == extraction_strength([7], [8]) == 0


@pytest.mark.parametrize("metric", [exact_memorization, extraction_strength])
def test_what_cannot_be_compared_is_refused(metric: Callable[..., float]) -> None:
    with pytest.raises(VestigeError, match="predictions needs a non-empty list of token ids"):
        metric([], [])
    with pytest.raises(VestigeError, match="lengths differ: predictions 2, labels 1"):
        metric([1, 2], [1])
    with pytest.raises(VestigeError, match="of float64"):
        metric([1, 2], [1.0, 2.0])


@pytest.mark.usefixtures("untyped")
def test_an_unknown_floor_is_refused() -> None:
    with pytest.raises(VestigeError, match="'zero' or 'release', got 'paper'"):
        extraction_strength([1], [1], es_floor="paper")  # type: ignore[arg-type]
