"""Probabilities of answers: the fixture of the losses, and choices among answers."""

import math

import numpy as np
import pytest

from hooked.errors import VestigeError
from vestige.metrics.probability import choice_prob, seq_prob


@pytest.mark.parametrize(
    ("nll", "expected"),
    [((0.440190, 2.210998, 1.386294), 0.260324), ((0.185182, 1.383529, 0.743668), 0.462646)],
)
def test_seq_prob_is_the_geometric_mean_of_token_probabilities(nll: tuple[float, ...], expected: float) -> None:
    assert seq_prob(-np.array(nll)) == pytest.approx(expected, abs=1e-6)


def test_seq_prob_of_one_token_and_of_sure_and_impossible_tokens() -> None:
    assert seq_prob([math.log(0.25)]) == pytest.approx(0.25)
    assert seq_prob([0.0, 0.0]) == 1
    assert seq_prob([1e-7, 0.0]) == 1
    assert seq_prob([-1.0, -math.inf]) == 0
    assert seq_prob(np.array([-0.5, -0.5], dtype=np.float32)) == pytest.approx(math.exp(-0.5))


def test_seq_prob_refuses_what_is_no_log_probability() -> None:
    with pytest.raises(VestigeError, match="cannot be above 0, got 2"):
        seq_prob([-1.0, 2.0])


def test_choice_prob_is_the_share_of_the_right_answer() -> None:
    nll = -np.log([0.2, 0.1, 0.1])
    assert choice_prob(float(nll[0]), nll[1:]) == pytest.approx(0.5)
    assert choice_prob(1.3, [1.3] * 4) == pytest.approx(1 / 5)
    assert choice_prob(math.inf, [1.0]) == 0
    assert choice_prob(1.0, [math.inf]) == 1


def test_choice_prob_survives_a_ruined_model() -> None:
    """Probabilities of e^-5000 are 0 in float64, and their share would be 0/0."""
    assert choice_prob(5000.0, [5000.0, 5001.0]) == pytest.approx(1 / (2 + math.exp(-1)))


def test_choice_prob_refuses_undefined_shares() -> None:
    with pytest.raises(VestigeError, match="every listed one has probability 0"):
        choice_prob(math.inf, [math.inf])
    with pytest.raises(VestigeError, match="wrong_nll cannot be below 0, got -2 at item 1; negate log-probs"):
        choice_prob(1.0, [1.0, -2.0])
