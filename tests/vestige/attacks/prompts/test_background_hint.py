from typing import Any

import pytest

from hooked import Item, UnlearnData, VestigeError
from tests.vestige.attacks.contract import AttackContract, facts
from tests.vestige.attacks.recording import tiny_target
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.prompts.background_hint import OPENING, background_hint
from vestige.attacks.prompts.leaks import gives_away


class TestBackgroundHint(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return background_hint(target, data, **settings)


def test_kept_facts_come_from_near_and_never_hold_the_answer(scored: list[tuple[str, str]]) -> None:
    forget = Item("where is a?", "t9", subject="a", relation="place")
    near, alike, far = (
        Item("who is a?", "t10", subject="a", relation="person"),
        Item("where is b?", "t11", subject="b", relation="place"),
        Item("who is b?", "t12", subject="b", relation="person"),
    )
    telling = Item("where is a indeed?", "t9", subject="a", relation="place")
    for seed in range(5):
        background_hint(tiny_target(), UnlearnData((forget,), (far, telling, alike, near)), facts=2, seed=seed)
    assert scored == [(f"{OPENING}{near.text}; {alike.text}\n\nwhere is a?", "t9")] * 5


def test_a_given_text_is_shown_as_it_is(scored: list[tuple[str, str]]) -> None:
    data = UnlearnData((Item("who?", "t9", concept="a"),))
    background_hint(tiny_target(), data, background={"a": "a lies by the sea"})
    assert scored == [(f"{OPENING}a lies by the sea\n\nwho?", "t9")]


def test_errors() -> None:
    data = UnlearnData((Item("who?", "t9", subject="a"),))
    with pytest.raises(VestigeError, match=r"the background on 'a' for 'who.' holds the answer 't9'"):
        background_hint(tiny_target(), data, background={"a": "a is t9"})
    with pytest.raises(VestigeError, match="background has no text about 'a'; its subjects are b"):
        background_hint(tiny_target(), data, background={"b": "x"})
    with pytest.raises(VestigeError, match="background_hint needs retain items"):
        background_hint(tiny_target(), data)
    with pytest.raises(VestigeError, match="at least one fact, got facts=0"):
        background_hint(tiny_target(), facts(), facts=0)


def test_no_default_background_gives_an_answer_away(scored: list[tuple[str, str]]) -> None:
    background_hint(tiny_target(), facts(), facts=4)
    for item, (prompt, _) in zip(facts().forget, scored, strict=True):
        assert prompt.endswith(f"\n\n{item.prompt}")
        assert not gives_away(prompt.removesuffix(item.prompt), item)
