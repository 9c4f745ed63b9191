"""Metrics of generated text: ROUGE-L by hand and by a slow definition, and the degeneracy guards."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked.errors import VestigeError
from vestige.metrics.generation import repeat_4, rouge_l_recall, unique_token_ratio

WORDS = st.lists(st.sampled_from(["ba", "do", "ku", "mi"]), min_size=1, max_size=9)


def longest_common_subsequence(a: list[str], b: list[str]) -> int:
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return 1 + longest_common_subsequence(a[:-1], b[:-1])
    return max(longest_common_subsequence(a[:-1], b), longest_common_subsequence(a, b[:-1]))


def test_rouge_by_hand_and_its_argument_order() -> None:
    assert rouge_l_recall("the cat on mat", reference="the cat sat on the mat") == pytest.approx(2 / 3)
    assert rouge_l_recall("the cat sat on the mat", reference="the cat on mat") == 1


@given(WORDS, WORDS)
def test_rouge_is_the_common_subsequence_over_the_reference(generated: list[str], reference: list[str]) -> None:
    expected = longest_common_subsequence(generated, reference) / len(reference)
    assert rouge_l_recall(" ".join(generated), reference=" ".join(reference)) == pytest.approx(expected)


def test_rouge_ignores_case_and_punctuation_and_stems() -> None:
    assert rouge_l_recall("THE cats, sleeping!", reference="the cat sleeps") == 1
    assert rouge_l_recall("THE cats, sleeping!", reference="the cat sleeps", stemmer=False) == pytest.approx(1 / 3)
    # Words of up to three letters are not stemmed.
    assert rouge_l_recall("ads running", reference="ad runs") == pytest.approx(1 / 2)


def test_rouge_of_nothing_generated_is_zero() -> None:
    assert rouge_l_recall("", reference="a fact") == 0
    assert rouge_l_recall(" ?! ", reference="a fact") == 0


@pytest.mark.parametrize("reference", ["", "?!", "Привет", "東京"])
def test_a_reference_that_rouge_cannot_see_is_refused(reference: str) -> None:
    with pytest.raises(VestigeError, match="needs a reference with a word of a-z or 0-9"):
        rouge_l_recall("anything", reference=reference)


@pytest.mark.parametrize(
    ("ids", "expected"), [([1, 1, 2, 3], 0.75), ([5], 1), ([5, 5, 5, 5, 5], 0.2), ([1, 2, 3], 1), ([], None)]
)
def test_unique_token_ratio(ids: list[int], expected: float | None) -> None:
    assert unique_token_ratio(ids) == expected
    assert unique_token_ratio(np.array(ids, dtype=int)) == expected
    assert unique_token_ratio(" ".join(map(str, ids))) == expected


def test_elements_of_a_tensor_are_compared_by_value() -> None:
    """They hash by identity, so that a naive set would find every token new."""
    ids = torch.tensor([4, 4, 4, 4, 4, 4])
    assert unique_token_ratio(ids) == pytest.approx(1 / 6)
    assert repeat_4(ids) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ([1, 2, 3, 4, 5], 0),
        ([1, 2, 3, 4, 1, 2, 3, 4], 0.2),
        ([7, 7, 7, 7, 7, 7], 2 / 3),
        ([1, 2, 3, 4], 0),
        ([1, 2, 3], None),
        ([], None),
    ],
)
def test_repeat_4(ids: list[int], expected: float | None) -> None:
    assert repeat_4(ids) == (None if expected is None else pytest.approx(expected))
    assert repeat_4(" ".join(map(str, ids))) == (None if expected is None else pytest.approx(expected))


def test_a_batch_is_no_single_output() -> None:
    with pytest.raises(VestigeError, match=r"one flat list of ids, got shape \[2, 3\]"):
        unique_token_ratio(np.ones((2, 3), dtype=int))
