from typing import Any

import pytest

from hooked import Item, UnlearnData, VestigeError
from tests.vestige.attacks.contract import AttackContract, facts
from tests.vestige.attacks.recording import tiny_target
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.prompts.few_shot import few_shot
from vestige.attacks.prompts.leaks import gives_away
from vestige.attacks.prompts.many_shot import many_shot


class TestFewShot(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return few_shot(target, data, **{"shots": 3, **settings})


class TestManyShot(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return many_shot(target, data, **settings)


def test_examples_are_kept_facts_without_the_answer(scored: list[tuple[str, str]]) -> None:
    data = facts()
    few_shot(tiny_target(), data, shots=5, separator="\n---\n")
    kept = {item.text for item in data.retain}
    for item, (prompt, answer) in zip(data.forget, scored, strict=True):
        *examples, asked = prompt.split("\n---\n")
        assert (asked, answer) == (item.prompt, item.answer)
        assert len(set(examples)) == 5
        assert set(examples) <= kept
        assert not any(gives_away(text, item) for text in examples)


def test_a_kept_fact_with_the_same_answer_is_no_example(scored: list[tuple[str, str]]) -> None:
    forget = Item("t5 is", "t6")
    telling, other = Item("t7 is", "t6"), Item("t8 is", "t9")
    few_shot(tiny_target(), UnlearnData((forget,), (telling, other)), shots=2)
    assert scored == [(f"{other.text}\n\nt5 is", "t6")]


def test_the_seed_draws_and_every_item_draws_its_own(scored: list[tuple[str, str]]) -> None:
    for seed in (0, 0, 1):
        few_shot(tiny_target(), facts(), shots=3, seed=seed)
    one, same, other = scored[:6], scored[6:12], scored[12:]
    assert one == same != other
    assert len({prompt.rsplit("\n\n", 1)[0] for prompt, _ in one}) == 6


def test_examples_in_the_form_of_the_question_come_before_others(scored: list[tuple[str, str]]) -> None:
    forget = (Item("Q: t5?\nA:", "t6"),)
    alike = Item("Q: t7?\nA:", "t8")
    others = tuple(Item(f"t{n} is", f"t{n + 40}") for n in range(10, 16))
    few_shot(tiny_target(), UnlearnData(forget, (*others, alike)), shots=1)
    few_shot(tiny_target(), UnlearnData(forget, (*others, alike)), shots=3)
    assert scored[0][0] == f"{alike.text}\n\n{forget[0].prompt}"
    # What is likest stands last.
    assert scored[1][0].split("\n\n")[-2:] == [alike.text, forget[0].prompt]


def test_what_does_not_fit_is_dropped_and_counted(scored: list[tuple[str, str]]) -> None:
    target = tiny_target()  # 64 positions; an example takes 6 to 8
    found = many_shot(target, facts(), shots=12)
    lengths = [target.view.tokenize(prompt, answers=answer).ids.shape[1] for prompt, answer in scored]
    assert max(lengths) <= 64
    assert min(lengths) > 64 - 9
    left = sum(prompt.count("\n\n") for prompt, _ in scored)
    assert found.budget == {"queries": 6, "examples": left, "seed": 0}
    assert found.note.endswith("had no room and were left out")


def test_errors() -> None:
    with pytest.raises(VestigeError, match="few_shot needs at least one example, got shots=0"):
        few_shot(tiny_target(), facts(), shots=0)
    with pytest.raises(
        VestigeError, match=r"many_shot needs retain items with a prompt and an answer, and data.retain"
    ):
        many_shot(tiny_target(), UnlearnData(facts().forget))
