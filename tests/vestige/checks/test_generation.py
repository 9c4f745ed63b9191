"""ROUGE and degeneracy, empty continuations and answers that ROUGE cannot read included."""

import pytest

from hooked import Item, UnlearnData
from tests.vestige.build import by_subject, evidence, reading, split
from vestige.checks.generation import degeneracy, forget_rouge, recalls

ANSWERS = ("the red fox", "a blue whale", "two green frogs")
DATA = UnlearnData(tuple(Item(f"q{i}", answer) for i, answer in enumerate(ANSWERS)))


def test_rouge_is_recall_of_the_answer() -> None:
    texts = ("the red fox ran", "whale", "")
    found = forget_rouge(evidence({"original": reading(split([0.5] * 3, texts=texts))}, data=DATA))[0]
    assert found.per_item == pytest.approx((1.0, 1 / 3, 0.0))
    assert found.estimate == pytest.approx(4 / 9)


def test_an_empty_continuation_counts_as_0() -> None:
    found = forget_rouge(evidence({"original": reading(split([0.5] * 3, texts=("", "", "")))}, data=DATA))[0]
    assert (found.estimate, found.n) == (0.0, 3)


def test_the_floor_is_what_the_originals_texts_share_with_other_answers() -> None:
    exact = evidence({"original": reading(split([0.5] * 3, texts=ANSWERS))}, data=DATA)
    floor = forget_rouge(exact)[0].floor
    # A permutation of three keeps one of them in its place in the mean, and the answers share no word.
    assert floor == pytest.approx(1 / 3, abs=0.15)
    silent = evidence(
        {"original": reading(split([0.5] * 3, texts=("x",) * 3)), "edited": reading(split([0.5] * 3, texts=ANSWERS))},
        data=DATA,
    )
    assert [r.floor for r in forget_rouge(silent)] == [0.0, 0.0]


def test_one_item_has_no_floor() -> None:
    alone = UnlearnData((Item("q", "fox"),))
    assert forget_rouge(evidence({"original": reading(split([0.5], texts=("fox",)))}, data=alone))[0].floor is None


def test_answers_in_other_scripts_are_left_out_and_only_others_is_a_reason() -> None:
    assert recalls(["дом", "red", "Straße"], ["дом", "red", "Straße"]) == [1.0, 1.0]
    data = UnlearnData((Item("q", "дом"), Item("p", "北京")))
    result = forget_rouge(evidence({"original": reading(split([0.5] * 2, texts=("дом", "北京")))}, data=data))[0]
    assert result.estimate is None
    assert result.floor is None
    assert "a-z" in result.note


def test_degeneracy_by_hand() -> None:
    forget = split([0.5] * 2, token_ids=((1, 1, 2, 3), (4, 4, 4, 4)))
    found = degeneracy(evidence({"original": reading(forget, retain=split([0.5], token_ids=((5, 6),)))}))[0]
    assert found.per_item == (0.75, 0.25, 1.0)
    assert (found.estimate, found.higher_is, found.note) == (pytest.approx(2 / 3), "useful", "")


def test_empty_continuations_are_counted_and_not_averaged() -> None:
    found = by_subject(
        degeneracy(
            evidence(
                {
                    "original": reading(split([0.5] * 2, token_ids=((1, 2), ()))),
                    "edited": reading(split([0.5] * 2, token_ids=((), ()))),
                }
            )
        )
    )
    assert (found["original"].estimate, found["original"].n) == (1.0, 1)
    assert "1 of 2 continuations were empty" in found["original"].note
    assert found["edited"].estimate is None
    assert found["edited"].note == "every continuation was empty"
