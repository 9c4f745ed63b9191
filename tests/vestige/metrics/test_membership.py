"""Per-text membership scores: hand values, the identities between them, and the ends of the scale."""

import math
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hooked.errors import VestigeError
from vestige.metrics.membership import (
    log_prob_moments,
    loss_score,
    lowercase_score,
    min_k_plus_plus_score,
    min_k_score,
    reference_score,
    zlib_score,
)

LOG_PROBS = [-0.1, -0.2, -3.0, -0.5, -2.0, -0.05, -1.0, -0.3, -0.4, -4.0]
# Fixture A of the specification: logits of three places and the tokens that follow.
LOGITS = np.array([[2.0, 1, 0, -1], [0, 1, 3, 0], [1, 1, 1, 1]])
TOKENS = np.array([0, 1, 3])


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.mark.parametrize(("k", "value"), [(0.2, 3.5), (0.4, 2.5), (0.05, 4.0), (1.0, 1.155)])
def test_min_k_by_hand(k: float, value: float) -> None:
    assert min_k_score(LOG_PROBS, k=k) == pytest.approx(value)


def test_min_k_of_everything_is_the_loss_and_one_token_is_enough() -> None:
    assert min_k_score(LOG_PROBS, k=1) == pytest.approx(loss_score(LOG_PROBS))
    assert min_k_score([-2.0], k=0.2) == 2.0


def test_a_share_that_rounding_leaves_below_a_whole_number_counts_as_that_number() -> None:
    values = -np.arange(100.0)
    assert 0.29 * 100 < 29
    assert min_k_score(values, k=0.29) == pytest.approx(np.sort(-values)[-29:].mean())


def test_standardised_log_probabilities_by_hand() -> None:
    log_p = log_softmax(LOGITS)
    means, variances = log_prob_moments(log_p)
    z = [-min_k_plus_plus_score([log_p[t, i]], [means[t]], [variances[t]]) for t, i in enumerate(TOKENS)]
    # The last place is uniform: its variance is 0, and so is z.
    assert z == pytest.approx([0.646113, -1.577682, 0.0], abs=1e-6)
    taken = log_p[np.arange(3), TOKENS]
    assert min_k_plus_plus_score(taken, means, variances, k=0.4) == pytest.approx(1.577682, abs=1e-6)


def test_moments_are_those_of_the_distribution_also_where_a_token_is_impossible() -> None:
    mean, variance = log_prob_moments(np.array([math.log(0.5), math.log(0.5), -math.inf]))
    assert (mean, variance) == (pytest.approx(math.log(0.5)), pytest.approx(0.0))


@given(st.lists(st.floats(-20, 0), min_size=1, max_size=8), st.floats(-5, 0), st.floats(0.01, 4))
def test_with_one_mean_and_variance_everywhere_min_k_plus_plus_is_min_k_rescaled(
    log_probs: list[float], mean: float, variance: float
) -> None:
    n = len(log_probs)
    plus = min_k_plus_plus_score(log_probs, [mean] * n, [variance] * n, k=0.4)
    assert plus == pytest.approx((min_k_score(log_probs, k=0.4) + mean) / math.sqrt(variance), abs=1e-9)


def test_the_compressed_length_divides_the_loss() -> None:
    text = "so it goes " * 20
    assert zlib_score([-1.0, -3.0], text) == pytest.approx(2 / len(zlib.compress(text.encode("utf-8"))))
    assert zlib_score([-1.0], text) < zlib_score([-1.0], text[:11]) * 2 < 2 * zlib_score([-1.0], "xqj")


def test_reference_and_lower_case() -> None:
    assert reference_score(1.5, 2.0) == -0.5
    assert lowercase_score(1.0, 4.0) == 0.25
    assert lowercase_score(1.0, 0.0) == math.inf
    assert loss_score([-math.inf, 0.0]) == min_k_score([-math.inf, 0.0]) == math.inf


def test_a_trained_text_scores_lower_everywhere() -> None:
    seen, unseen = [-0.1, -0.2, -0.3], [-2.0, -3.0, -4.0]
    flat = ([-2.0] * 3, [1.0] * 3)
    assert loss_score(seen) < loss_score(unseen)
    assert zlib_score(seen, "abc") < zlib_score(unseen, "abc")
    assert min_k_score(seen) < min_k_score(unseen)
    assert min_k_plus_plus_score(seen, *flat) < min_k_plus_plus_score(unseen, *flat)
    assert reference_score(loss_score(seen), 3.0) < reference_score(loss_score(unseen), 3.0)
    assert lowercase_score(loss_score(seen), 3.0) < lowercase_score(loss_score(unseen), 3.0)


def test_errors_are_one_line_and_say_what_came() -> None:
    with pytest.raises(VestigeError, match=r"cannot be above 0, got 2; were logits or NLLs passed\?"):
        loss_score([2.0])
    with pytest.raises(VestigeError, match=r"log_probs needs a non-empty array with 1 axes, got shape \[0\]"):
        min_k_score([])
    for k in (0, 1.5):
        with pytest.raises(VestigeError, match=f"k is a share of the tokens above 0 and at most 1, got {k}"):
            min_k_score([-1.0], k=k)
    with pytest.raises(VestigeError, match="log_probs 1, means 2, variances 1"):
        min_k_plus_plus_score([-1.0], [-1.0, -1.0], [1.0])
    with pytest.raises(VestigeError, match="a variance cannot be below 0, got -1 at token 0"):
        min_k_plus_plus_score([-1.0], [-1.0], [-1.0])
    with pytest.raises(VestigeError, match="both models give the text probability 0"):
        reference_score(math.inf, math.inf)
    with pytest.raises(VestigeError, match="the ratio of two losses of 0 is undefined"):
        lowercase_score(0.0, 0.0)
