"""What holds for every metric: inputs stay as they were, twice gives the same as once, and bad arrays are named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from hooked.errors import VestigeError
from vestige.metrics.bootstrap import combined_interval, mean_interval, ratio_interval
from vestige.metrics.forget_quality import forget_quality
from vestige.metrics.generation import repeat_4, unique_token_ratio
from vestige.metrics.memorization import exact_memorization, extraction_strength
from vestige.metrics.probability import choice_prob, seq_prob
from vestige.metrics.suppression import recovery_gap, recovery_gap_matched, suppression_index
from vestige.metrics.truth_ratio import closer_to_1, prob_mean, true_better, truth_ratio
from vestige.metrics.utility import harmonic_mean
from vestige.metrics.weights import cosine, l2, token_overlap, top_tokens

SCORES = np.array([0.9, 0.2, 0.4, 0.7, 0.6])
OTHER = np.array([0.1, 0.3, 0.2, 0.0, 0.5])
IDS = np.array([3, 1, 4, 1, 5, 9, 2, 6])

# Metrics of real numbers; each is called with fresh copies of its arrays.
REAL: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "seq_prob": (seq_prob, (-SCORES,)),
    "choice_prob": (lambda wrong: choice_prob(1.0, wrong), (SCORES,)),
    "truth_ratio": (lambda wrong: truth_ratio(1.0, wrong), (SCORES,)),
    "truth_ratio_arithmetic": (lambda wrong: truth_ratio(1.0, wrong, mean="arithmetic"), (SCORES,)),
    "closer_to_1": (closer_to_1, (SCORES,)),
    "true_better": (true_better, (SCORES,)),
    "prob_mean": (prob_mean, (SCORES,)),
    "forget_quality": (forget_quality, (SCORES, OTHER)),
    "harmonic_mean": (harmonic_mean, (SCORES,)),
    "cosine": (cosine, (SCORES, OTHER)),
    "l2": (l2, (SCORES, OTHER)),
    "top_tokens": (lambda scores: top_tokens(scores, k=2), (SCORES,)),
    "token_overlap": (lambda before, after: token_overlap(before, after, k=2), (SCORES, OTHER)),
    "mean_interval": (mean_interval, (SCORES,)),
    "combined_interval": (lambda a, b: combined_interval([a, b], statistic=harmonic_mean), (SCORES, OTHER)),
    "ratio_interval": (ratio_interval, (OTHER, SCORES)),
    "suppression_index": (
        lambda raw, view: suppression_index(raw=raw, view=view, original=raw, control=view),
        (SCORES, OTHER),
    ),
    "recovery_gap": (
        lambda a, b: recovery_gap(unlearned_attacked=a, control_attacked=b, original=a, control=b),
        (SCORES, OTHER),
    ),
    "recovery_gap_matched": (
        lambda a, b: recovery_gap_matched(unlearned_attacked=a, control_attacked=b, original_attacked=a),
        (SCORES, OTHER),
    ),
}
TOKENS: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "exact_memorization": (exact_memorization, (IDS, IDS[::-1])),
    "extraction_strength": (extraction_strength, (IDS, IDS[::-1])),
    "unique_token_ratio": (unique_token_ratio, (IDS,)),
    "repeat_4": (repeat_4, (IDS,)),
}
# Those of two arrays that do not compare samples of any two sizes.
PAIRED = [n for n, (_, arrays) in REAL.items() if len(arrays) > 1 and n not in ("forget_quality", "combined_interval")]


@pytest.mark.parametrize("name", REAL | TOKENS)
def test_inputs_are_unchanged_and_a_second_call_agrees(name: str) -> None:
    metric, arrays = (REAL | TOKENS)[name]
    given = [array.copy() for array in arrays]
    for array in given:
        array.setflags(write=False)
    first, second = metric(*given), metric(*given)
    assert np.array_equal(first, second) if isinstance(first, np.ndarray) else first == second
    assert all(np.array_equal(a, b) for a, b in zip(given, arrays, strict=True))


@pytest.mark.parametrize("name", REAL | TOKENS)
def test_lists_give_what_arrays_give(name: str) -> None:
    metric, arrays = (REAL | TOKENS)[name]
    first, second = metric(*arrays), metric(*(array.tolist() for array in arrays))
    assert np.array_equal(first, second) if isinstance(first, np.ndarray) else first == second


@pytest.mark.parametrize("name", REAL)
def test_nan_is_refused_with_its_place(name: str) -> None:
    metric, arrays = REAL[name]
    spoilt = [array.copy() for array in arrays]
    spoilt[-1][2] = np.nan
    with pytest.raises(VestigeError, match="has nan at item 2"):
        metric(*spoilt)


@pytest.mark.parametrize("name", REAL)
def test_nothing_to_measure_is_refused(name: str) -> None:
    metric, arrays = REAL[name]
    with pytest.raises(VestigeError, match="non-empty"):
        metric(*(array[:0] for array in arrays))


@pytest.mark.parametrize("name", PAIRED)
def test_unpaired_items_are_refused(name: str) -> None:
    metric, arrays = REAL[name]
    with pytest.raises(VestigeError, match="lengths differ"):
        metric(arrays[0], arrays[1][:4])


def test_what_is_no_array_of_numbers_is_refused() -> None:
    with pytest.raises(VestigeError, match="must be an array of numbers"):
        harmonic_mean(["a", "b"])
    with pytest.raises(VestigeError, match=r"1 axes, got shape \[2, 1\]"):
        harmonic_mean([[1.0], [2.0]])
