from dataclasses import replace
from typing import Any

import pytest

from hooked import UnlearnData, VestigeError
from tests.vestige.attacks.contract import AttackContract, facts
from tests.vestige.attacks.recording import tiny_target
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.prompts.reworded import reworded


class TestReworded(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return reworded(target, data, **settings)


def test_items_without_other_words_are_asked_in_their_own(scored: list[tuple[str, str]]) -> None:
    one, other = facts().forget[:2]
    found = reworded(tiny_target(), UnlearnData((one, replace(other, paraphrased_prompt=None))))
    assert scored == [("t0 has which 0?", one.answer), (other.prompt, other.answer)]
    assert found.note == "1 of 2 items have no other words and were asked in their own"


def test_without_any_other_words_there_is_no_attack() -> None:
    bare = UnlearnData(tuple(replace(item, paraphrased_prompt=None) for item in facts().forget))
    with pytest.raises(VestigeError, match="no forget item has a paraphrased_prompt"):
        reworded(tiny_target(), bare)
