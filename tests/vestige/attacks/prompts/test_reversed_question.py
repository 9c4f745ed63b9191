from dataclasses import replace
from typing import Any

import pytest

from hooked import Item, UnlearnData, VestigeError
from tests.vestige.attacks.contract import AttackContract, facts
from tests.vestige.attacks.recording import tiny_target
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.prompts.reversed_question import reversed_question


class TestReversedQuestion(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return reversed_question(target, disjoint(data), **settings)


def disjoint(data: UnlearnData) -> UnlearnData:
    """Name the subjects so that no answer holds one."""
    return replace(data, forget=tuple(replace(item, subject=f"t{50 + n}") for n, item in enumerate(data.forget)))


def test_the_subject_is_asked_for_in_the_form_of_the_data(scored: list[tuple[str, str]]) -> None:
    items = (
        Item("question: who rules t5? answer:", "t9.", subject="t5", relation="ruler"),
        Item("t5 has", "t9", subject="t5"),
    )
    reversed_question(tiny_target(), UnlearnData(items))
    reversed_question(tiny_target(), UnlearnData(items), question="{answer}: whose?")
    assert scored == [
        ("question: What has t9 as its ruler? answer:", "t5"),
        ("What does t9 belong to?", "t5"),
        ("question: t9: whose? answer:", "t5"),
        ("t9: whose?", "t5"),
    ]


@pytest.mark.parametrize(
    ("item", "question", "said"),
    [
        (Item("who?", "t9"), None, r"needs the subject of every item, and forget\[0\] has none"),
        (Item("who?", "", subject="t5"), None, "needs the answer of every item"),
        (Item("who?", "t5 t9", subject="t5"), None, r"the answer of forget\[0\] names its subject 't5'"),
        (Item("who?", "t9", subject="t5"), "{answer} {relation}?", r"relation, and forget\[0\] names none"),
        (Item("who?", "t9", subject="t5"), "whose?", "needs the place {answer}"),
    ],
)
def test_errors(item: Item, question: str | None, said: str) -> None:
    with pytest.raises(VestigeError, match=said):
        reversed_question(tiny_target(), UnlearnData((item,)), question=question)


def test_it_is_another_direction_than_the_question(scored: list[tuple[str, str]]) -> None:
    found = reversed_question(tiny_target(), disjoint(facts()))
    # So what the plain question gives is no scale for it.
    assert found.measure == "subject"
    assert [answer for _, answer in scored] == [f"t{50 + n}" for n in range(6)]
