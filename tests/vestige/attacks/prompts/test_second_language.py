from typing import Any

import pytest

from hooked import Item, UnlearnData, VestigeError
from tests.vestige.attacks.contract import AttackContract, facts
from tests.vestige.attacks.recording import tiny_target
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.prompts.second_language import second_language


class TestSecondLanguage(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        translated = {item.prompt: f"t{50 + n} t9" for n, item in enumerate(data.forget)}
        return second_language(target, data, translated=translated, **settings)


def test_translations_come_as_texts_or_as_items(scored: list[tuple[str, str]]) -> None:
    data = UnlearnData((Item("who?", "t9"),))
    asked = second_language(tiny_target(), data, translated={"who?": "wer?"})
    told = second_language(tiny_target(), data, translated=[Item("wer?", "t10")])
    # Answers of its own are another measure, with another scale.
    assert (asked.measure, told.measure) == ("probability", "translation")
    assert scored == [("wer?", "t9"), ("wer?", "t10")]


def test_errors() -> None:
    with pytest.raises(
        VestigeError, match="one translation per forget item, 6 in all, got 0; give them as translated="
    ):
        second_language(tiny_target(), facts())
    with pytest.raises(VestigeError, match="no translation of the forget prompt 'the 0 of t0 is'"):
        second_language(tiny_target(), facts(), translated={"who?": "wer?"})
