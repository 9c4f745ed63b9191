"""Cosine, distance and token overlap of the followed vectors, by hand."""

import pytest
import torch

from tests.vestige.build import by_subject, evidence, reading
from vestige.checks.concept_vectors import concept_vector_checks
from vestige.evidence import Evidence
from vestige.result import Result

V, W = [3.0, 0.0, 4.0, 0.0], [0.0, 2.0, 0.0, 0.0]
COSINE, L2, JACCARD = "concept_vector_cosine", "concept_vector_l2", "concept_vector_jaccard"


def given(**subjects: dict[tuple[int, int], list[float]]) -> Evidence:
    readings = {name: reading([0.5, 0.5], rows=rows) for name, rows in subjects.items()}
    W_U = torch.tensor([[1.0, 0, 0, 0, -1, 0], [0, 1, 0, 0, 0, -1], [0, 0, 1, 0, 0, 0], [0, 0, 0, 1, 0, 0]])
    return evidence(readings, vectors=[(0, 1), (1, 2)], W_U=W_U)


def measured(check: str, **subjects: dict[tuple[int, int], list[float]]) -> dict[str, Result]:
    return by_subject(concept_vector_checks(given(**subjects)), check)


BEFORE = {(0, 1): V, (1, 2): W}


def test_untouched_vectors() -> None:
    for check, value in ((COSINE, 1.0), (L2, 0.0), (JACCARD, 1.0)):
        found = measured(check, original=BEFORE, edited=BEFORE)
        assert found["edited"].estimate == found["original"].estimate == pytest.approx(value)


def test_values_by_hand() -> None:
    # (3, 0, 4, 0) to (3, 0, 0, 0): cosine 3/5, moved by 4 of 5; (0, 2, 0, 0) to (0, -2, 0, 0): -1, moved by 2.
    after = {(0, 1): [3.0, 0, 0, 0], (1, 2): [0, -2.0, 0, 0]}
    assert measured(COSINE, original=BEFORE, edited=after)["edited"].per_item == pytest.approx((0.6, -1.0))
    assert measured(L2, original=BEFORE, edited=after)["edited"].per_item == pytest.approx((0.8, 2.0))
    # k is 1 of 6 tokens: token 2 became token 0, token 1 became token 5.
    jaccard = measured(JACCARD, original=BEFORE, edited=after)["edited"]
    assert jaccard.per_item == (0.0, 0.0)
    assert jaccard.floor == pytest.approx(1 / 11)


def test_zeroed_vectors_point_nowhere_at_a_distance_of_1_and_have_no_tokens() -> None:
    zero = {(0, 1): [0.0] * 4, (1, 2): [0.0] * 4}
    cosine = measured(COSINE, original=BEFORE, edited=zero)["edited"]
    assert (cosine.estimate, cosine.n) == (0.0, 2)
    assert measured(L2, original=BEFORE, edited=zero)["edited"].estimate == pytest.approx(1.0)
    assert measured(JACCARD, original=BEFORE, edited=zero)["edited"].estimate == 0.0


def test_untouched_vectors_do_not_stand_for_the_zeroed_ones() -> None:
    half = measured(COSINE, original=BEFORE, edited={(0, 1): [0.0] * 4, (1, 2): W})["edited"]
    assert (half.estimate, half.n) == (pytest.approx(0.5), 2)


def test_a_missing_vector_is_counted_in_the_note() -> None:
    half = measured(COSINE, original=BEFORE, edited={(1, 2): W})["edited"]
    assert (half.estimate, half.n) == (pytest.approx(1.0), 1)
    assert "1 of 2 vectors" in half.note


def test_a_model_without_these_neurons_is_a_reason() -> None:
    found = measured(COSINE, original=BEFORE, never={})
    assert found["never"].estimate is None
    assert found["original"].control is None


def test_the_control_is_a_separately_trained_model() -> None:
    found = measured(COSINE, original=BEFORE, edited=BEFORE, never={(0, 1): [-3.0, 0, -4.0, 0], (1, 2): [1.0, 0, 0, 0]})
    assert found["edited"].control == pytest.approx(-0.5)
    assert "separately trained models" in found["edited"].note


def test_nothing_followed_is_a_reason_on_every_check() -> None:
    results = concept_vector_checks(evidence({"original": reading([0.5])}))
    assert [r.check for r in results] == [COSINE, L2, JACCARD]
    assert all(r.estimate is None and r.floor is None and "lexicon" in r.note for r in results)
