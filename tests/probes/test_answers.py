"""The answer probe: it reads a planted map, and its win rates are worked out by hand."""

import numpy as np
import pytest

from hooked import VestigeError
from probes import fit_answer_probe, win_rates


def test_win_rates_by_hand() -> None:
    # Means per token are 1, 2 and 3. Relative to them item 0 is (1, 0, -1), item 1 (-1, 0, 1).
    scores = np.array([[2.0, 2.0, 2.0], [0.0, 2.0, 4.0]])
    every = np.ones((2, 3), dtype=bool)
    assert win_rates(scores, np.array([0, 0]), every).tolist() == [1.0, 0.0]
    assert win_rates(scores, np.array([1, 1]), every).tolist() == [0.5, 0.5]


def test_ties_count_half() -> None:
    scores = np.zeros((3, 4))
    assert win_rates(scores, np.array([0, 1, 2]), np.ones((3, 4), dtype=bool)).tolist() == [0.5] * 3


def test_only_the_listed_wrong_answers_count() -> None:
    scores = np.array([[3.0, 0.0, 5.0], [0.0, 0.0, 0.0]])
    wrong = np.array([[False, True, False], [True, False, False]])
    assert win_rates(scores, np.array([0, 1]), wrong)[0] == 1.0


def test_a_constant_lead_of_a_token_wins_nothing() -> None:
    rng = np.random.default_rng(0)
    scores, every = rng.normal(size=(50, 8)), np.ones((50, 8), dtype=bool)
    right = rng.integers(0, 8, 50)
    assert win_rates(scores + 100 * np.arange(8), right, every) == pytest.approx(win_rates(scores, right, every))


def test_the_arguments_are_left_alone() -> None:
    scores, right, wrong = np.ones((2, 2)), np.array([0, 1]), np.ones((2, 2), dtype=bool)
    win_rates(scores, right, wrong)
    assert scores.tolist() == [[1.0, 1.0]] * 2
    assert wrong.all()


def test_an_item_without_wrong_answers_is_named() -> None:
    with pytest.raises(VestigeError, match="item 1 has no wrong answer"):
        win_rates(np.ones((2, 2)), np.array([0, 1]), np.array([[True, True], [False, True]]))


def test_a_planted_map_is_learnt_and_carries_over_to_other_tokens() -> None:
    rng = np.random.default_rng(0)
    W_U, turn = rng.normal(size=(16, 40)), np.linalg.qr(rng.normal(size=(16, 16)))[0]
    taught, asked = rng.integers(0, 30, 200), rng.integers(30, 40, 60)

    def acts(tokens: np.ndarray) -> np.ndarray:
        return W_U[:, tokens].T @ turn + 0.3 * rng.normal(size=(len(tokens), 16))

    probe = fit_answer_probe(acts(taught), taught, W_U=W_U)
    scores = probe.scores(acts(asked))
    assert scores.shape == (60, 40)
    assert win_rates(scores, asked, np.ones((60, 40), dtype=bool)).mean() > 0.9


@pytest.mark.parametrize(("n", "distinct"), [(9, 5), (20, 1)])
def test_too_little_to_learn_from_is_refused(n: int, distinct: int) -> None:
    with pytest.raises(VestigeError, match="at least 10 items with 2 different answers"):
        fit_answer_probe(np.ones((n, 4)), np.arange(n) % distinct, W_U=np.eye(4, 6))
