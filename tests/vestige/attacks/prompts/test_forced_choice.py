from dataclasses import replace
from typing import Any

import pytest

from hooked import Item, UnlearnData, VestigeError
from probes import answer_probability
from tests.vestige.attacks.contract import AttackContract, facts
from tests.vestige.attacks.recording import tiny_target
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.prompts.forced_choice import forced_choice


class TestForcedChoice(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return forced_choice(target, data, **settings)


def test_the_score_is_the_share_of_the_right_answer() -> None:
    target, item = tiny_target(), facts().forget[0]
    answers = (item.answer, *item.perturbed_answers)
    right, *wrong = answer_probability(target.view, [replace(item, answer=one) for one in answers]).tolist()
    found = forced_choice(target, UnlearnData((item,)))
    assert found.scores[0] == pytest.approx(right / (right + sum(wrong)), abs=1e-12)
    assert found.floor == pytest.approx(1 / 3)
    assert found.measure == "choice"


def test_options_that_the_model_cannot_tell_apart_score_chance() -> None:
    # Words without a token are one and the same to the model.
    data = UnlearnData((Item("t5 is", "one", perturbed_answers=("two", "three", "four")),))
    found = forced_choice(tiny_target(), data)
    assert found.scores[0] == pytest.approx(found.floor) == pytest.approx(1 / 4)


def test_a_choice_needs_wrong_answers() -> None:
    with pytest.raises(VestigeError, match=r"forced_choice chooses among answers, and forget\[0\] has no wrong"):
        forced_choice(tiny_target(), UnlearnData((Item("t5 is", "t6"),)))
