from typing import Any

import pytest

from hooked import Item, UnlearnData, VestigeError
from tests.vestige.attacks.contract import AttackContract, facts
from tests.vestige.attacks.recording import tiny_target
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.prompts.first_letter_hint import first_letter_hint


class TestFirstLetterHint(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return first_letter_hint(target, data, **settings)


def test_the_hint_stands_between_the_question_and_its_cue(scored: list[tuple[str, str]]) -> None:
    items = (Item("Question: who?\nAnswer:", "Ada"), Item("it was", "Ada"), Item("Q: who?\nA:", "Al"))
    first_letter_hint(tiny_target(), UnlearnData(items), letters=2)
    assert [prompt for prompt, _ in scored] == [
        "Question: who? The answer begins with 'Ad'.\nAnswer:",
        "The answer begins with 'Ad'. it was",
        # Two letters are the whole answer.
        "Q: who? The answer begins with 'A'.\nA:",
    ]


def test_an_answer_of_one_letter_is_not_told(scored: list[tuple[str, str]]) -> None:
    first_letter_hint(tiny_target(), UnlearnData((Item("Q: who?\nA:", "I"),)))
    assert scored[0][0] == "Q: who?\nA:"


def test_errors() -> None:
    with pytest.raises(VestigeError, match="at least one letter, got letters=0"):
        first_letter_hint(tiny_target(), facts(), letters=0)
    with pytest.raises(VestigeError, match=r"hint needs the place {start}"):
        first_letter_hint(tiny_target(), facts(), hint="guess")
