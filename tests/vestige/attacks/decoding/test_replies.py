"""Replies that are drawn: how much of an answer one holds, and what the best of several is worth."""

from itertools import combinations
from statistics import fmean
from typing import Any

import pytest

from hooked import Item, UnlearnData, VestigeError
from tests.vestige.attacks.contract import AttackContract, facts
from tests.vestige.attacks.recording import tiny_target
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.decoding.rephrasing import WORDINGS, rephrasing
from vestige.attacks.decoding.replies import best_of, recalled, tries
from vestige.attacks.decoding.sampled_answers import sampled_answers


class TestSampledAnswers(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return sampled_answers(target, data, **{"samples": 3, "max_new_tokens": 4, **settings})


class TestRephrasing(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return rephrasing(target, data, **{"samples": 2, "max_new_tokens": 4, **settings})


@pytest.mark.parametrize("values", [(0.0, 1.0, 0.0, 0.0), (0.3, 0.1, 0.1, 0.8, 0.5), (0.2,)])
def test_the_best_of_k_is_the_mean_over_all_choices_of_k(values: tuple[float, ...]) -> None:
    for k in range(1, len(values) + 1):
        assert best_of(values, k) == pytest.approx(fmean(max(one) for one in combinations(values, k)))


def test_tries_double_up_to_all() -> None:
    assert [tries(n) for n in (1, 2, 3, 8, 20)] == [
        (1,),
        (1, 2),
        (1, 2, 3),
        (1, 2, 4, 8),
        (1, 2, 4, 8, 16, 20),
    ]


@pytest.mark.parametrize(
    ("text", "answer", "score"),
    [
        ("it is the golden fish.", "golden fish", 1.0),
        ("a golden bird", "golden fish", 0.5),
        ("the cat on mat", "the cat sat on the mat", 4 / 6),
        ("nothing", "golden fish", 0.0),
        ("他去了巴黎", "巴黎", 1.0),
        ("他去了柏林", "巴黎", 0.0),
        ("", "fish", 0.0),
    ],
)
def test_how_much_of_an_answer_a_text_holds(text: str, answer: str, score: float) -> None:
    assert recalled(text, answer) == pytest.approx(score)


def test_scores_are_the_best_replies_and_the_curve_ends_at_their_mean() -> None:
    found = sampled_answers(tiny_target(), facts(), samples=5, max_new_tokens=8)
    assert found.measure == "recall"
    assert found.curve is not None
    assert list(found.curve) == [1, 2, 4, 5]
    assert list(found.curve.values()) == sorted(found.curve.values())
    assert found.curve[5] == pytest.approx(fmean(found.scores))
    assert found.budget["queries"] == 30


def test_nearly_no_temperature_draws_the_greedy_reply() -> None:
    target = tiny_target()
    (greedy,) = target.view.generate("t5 t6", max_new_tokens=3)
    data = UnlearnData((Item("t5 t6", greedy), Item("t5 t6", "t98 t97")))
    found = sampled_answers(target, data, samples=2, temperature=1e-6, max_new_tokens=3)
    assert found.scores[0] == 1.0 > found.scores[1]
    assert found.note == "the whole answer was written for 1 of 2 items"


def test_wordings_keep_the_form_and_take_turns_with_the_two_prompts(monkeypatch: pytest.MonkeyPatch) -> None:
    target = tiny_target()
    asked: list[str] = []

    def write(prompts: list[str], **settings: Any) -> list[str]:
        asked.extend(prompts)
        return [""] * len(prompts)

    monkeypatch.setattr(target.view, "generate", write)
    item = Item("Q: who is t5?\nA:", "t6", paraphrased_prompt="Q: t5 is who?\nA:")
    rephrasing(target, UnlearnData((item,)), samples=2, wordings=WORDINGS[:3])
    assert asked == [
        *["Q: t5 is who?\nA:"] * 2,
        *["Q: Please tell me: who is t5?\nA:"] * 2,
        *["Q: A friend would like to know this. t5 is who?\nA:"] * 2,
    ]


def test_a_prompt_leaves_room_for_the_reply() -> None:
    data = UnlearnData((Item("t5 " * 61 + "t6", "t7"),))
    found = sampled_answers(tiny_target(), data, samples=1, max_new_tokens=10)
    assert found.note.endswith("1 prompts had no room and lost words at their beginning")


def test_errors() -> None:
    for attack in (sampled_answers, rephrasing):
        with pytest.raises(VestigeError, match="at least one reply is drawn, got samples=0"):
            attack(tiny_target(), facts(), samples=0)
        with pytest.raises(VestigeError, match="temperature is above 0"):
            attack(tiny_target(), facts(), temperature=0)
        with pytest.raises(VestigeError, match=r"forget\[0\] has no answer that could be looked for"):
            attack(tiny_target(), UnlearnData((Item("t5", ""),)))
    with pytest.raises(VestigeError, match=r"needs the place {question} in it, got 'who"):
        rephrasing(tiny_target(), facts(), wordings=("who?",))
    with pytest.raises(VestigeError, match=r"needs the place {question} in it, got 'no wording'"):
        rephrasing(tiny_target(), facts(), wordings=())
