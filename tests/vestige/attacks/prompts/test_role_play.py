from dataclasses import replace
from typing import Any

import pytest

from hooked import Item, UnlearnData, VestigeError
from tests.vestige.attacks.contract import AttackContract, facts
from tests.vestige.attacks.recording import gated, tiny_target
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.plain import plain
from vestige.attacks.prompts.role_play import role_play


class TestRolePlay(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return role_play(target, data, **settings)


def test_the_role_stands_in_front_and_the_cue_stays_at_the_end(scored: list[tuple[str, str]]) -> None:
    role_play(tiny_target(), facts(), role="you know {subject}")
    assert scored[0] == ("you know t0\n\nthe 0 of t0 is", "t0")


def test_a_gate_decides_on_the_new_prompt() -> None:
    with gated(tiny_target()) as (target, seen):
        role_play(target, facts(), role="t50 t51 {subject}")
    assert all("t50 t51" in prompt for prompt in seen)
    assert len(seen) == 6


def test_a_role_without_room_is_left_out() -> None:
    target = tiny_target()
    found = role_play(target, facts(), role="t9 " * 63)
    assert found.note == "6 of 6 texts in front of the prompts had no room and were left out"
    assert found.scores == plain(target, facts()).scores


def test_a_role_that_tells_the_answer_is_refused() -> None:
    data = UnlearnData((Item("who is it?", "t9", subject="t8"),))
    with pytest.raises(VestigeError, match=r"the role for 'who is it.' holds the answer 't9'"):
        role_play(tiny_target(), data, role="you know {subject} and t9")
    with pytest.raises(VestigeError, match="needs a role"):
        role_play(tiny_target(), data, role=" ")
    # The subject's name may be the answer's: the question has it anyway.
    role_play(tiny_target(), UnlearnData((replace(data.forget[0], subject="t9"),)))
