"""Metrics of weights: untouched, scaled, turned, erased and independent vectors."""

import math

import numpy as np
import pytest

from hooked.errors import VestigeError
from vestige.metrics.weights import L2, cosine, jaccard_floor, l2, token_overlap, top_tokens

V = np.array([3.0, 0.0, 4.0])
ZERO = np.zeros(3)


def test_cosine_by_hand() -> None:
    assert cosine(V, V) == pytest.approx(1, abs=1e-15)
    assert cosine(V, 7 * V) == pytest.approx(1, abs=1e-15)
    assert cosine(V, -V) == pytest.approx(-1, abs=1e-15)
    assert cosine(V, [4.0, 9.0, -3.0]) == 0
    assert cosine(V, [3.0, 0.0, 0.0]) == pytest.approx(0.6)


def test_cosine_never_leaves_its_range() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        vector = rng.normal(size=5)
        for other in (vector, -vector, vector * (1 + 1e-16), rng.normal(size=5)):
            value = cosine(vector, other)
            assert value is not None
            assert -1 <= value <= 1


def test_cosine_of_tiny_and_huge_vectors() -> None:
    assert cosine(1e-200 * V, 1e200 * V) == pytest.approx(1)


def test_a_zero_vector_has_no_cosine() -> None:
    assert cosine(V, ZERO) is cosine(ZERO, V) is cosine(ZERO, ZERO) is None


def test_l2_by_hand() -> None:
    assert l2(V, V) == L2(0.0, 0.0)
    assert l2(V, ZERO) == L2(5.0, 1.0)
    assert l2(V, -V) == L2(10.0, 2.0)
    assert l2(ZERO, V) == L2(5.0, None)


@pytest.mark.parametrize(("k", "d_vocab", "floor"), [(200, 32000, 0.0031), (200, 1000, 0.111), (200, 371, 0.369)])
def test_jaccard_floor(k: int, d_vocab: int, floor: float) -> None:
    assert jaccard_floor(k, d_vocab) == pytest.approx(floor, abs=5e-4)


def test_independent_vectors_score_the_floor() -> None:
    rng = np.random.default_rng(0)
    overlaps = [token_overlap(rng.normal(size=1000), rng.normal(size=1000), k=200) for _ in range(200)]
    found = np.mean([overlap.jaccard for overlap in overlaps if overlap.jaccard is not None])
    assert overlaps[0].floor == pytest.approx(1 / 9)
    assert found == pytest.approx(overlaps[0].floor, abs=0.005)


def test_jaccard_by_hand() -> None:
    scores = np.array([5.0, 4.0, 3.0, 2.0, 1.0, 0.0])
    assert token_overlap(scores, scores, k=3).jaccard == 1
    assert token_overlap(scores, 10 * scores, k=3).jaccard == 1
    assert token_overlap(scores, -scores, k=3).jaccard == 0
    assert token_overlap(scores, [5.0, 4.0, 0.0, 3.0, 0.0, 0.0], k=3).jaccard == pytest.approx(2 / 4)
    assert token_overlap(scores, -scores).k == 1


def test_the_best_tokens_come_first_and_ties_by_id() -> None:
    assert top_tokens([1.0, 3.0, 2.0, 3.0], k=3) == (1, 3, 2)
    assert top_tokens([7.0, 7.0, 7.0, 7.0], k=2) == (0, 1)
    assert top_tokens(np.arange(1000) % 2 + 1.0, k=300) == tuple(range(1, 600, 2))
    assert top_tokens([-5.0, -1.0, -2.0], k=1) == (1,)
    assert len(top_tokens(np.arange(371.0))) == 8


def test_an_erased_vector_has_no_top_tokens() -> None:
    """With ties broken by id, two erased vectors would otherwise agree on tokens 0 to k-1 and look untouched."""
    scores = np.array([3.0, 2.0, 1.0, 0.0])
    assert top_tokens(np.zeros(4), k=2) == ()
    assert token_overlap(scores, np.zeros(4), k=2).jaccard == 0
    assert token_overlap(np.zeros(4), scores, k=2).jaccard is None
    assert token_overlap(np.zeros(4), np.zeros(4), k=2).jaccard is None


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(VestigeError, match="before has inf at item 1"):
        cosine([1.0, math.inf], [1.0, 2.0])
    for k in (0, 5):
        with pytest.raises(VestigeError, match=f"between 1 and d_vocab = 4, got {k}"):
            top_tokens([1.0, 2.0, 3.0, 4.0], k=k)
        with pytest.raises(VestigeError, match=f"between 1 and d_vocab = 4, got {k}"):
            jaccard_floor(k, 4)
