from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from hooked import Item, UnlearnData, VestigeError
from tests.vestige.attacks.contract import AttackContract, facts
from tests.vestige.attacks.recording import gated, tiny_target
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.plain import plain
from vestige.attacks.prompts.in_context_reintroduction import in_context_reintroduction
from vestige.attacks.prompts.leaks import gives_away


class TestInContextReintroduction(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return in_context_reintroduction(target, data, **{"levels": (0, 1, 3), **settings})


def by_level(scored: list[tuple[str, str]], n_items: int) -> list[list[str]]:
    """Return the prompts of each level."""
    return [[prompt for prompt, _ in scored[at : at + n_items]] for at in range(0, len(scored), n_items)]


def test_no_clue_is_the_plain_question_and_the_curve_ends_with_the_answer(scored: list[tuple[str, str]]) -> None:
    data = facts()
    found = in_context_reintroduction(tiny_target(), data, levels=(0, 1, 2, 4))
    none, one, two, four, full = by_level(scored, 6)
    assert none == [item.prompt for item in data.forget]
    assert found.curve is not None
    assert list(found.curve) == [0, 1, 2, 4, 5]
    assert found.curve[0] == pytest.approx(sum(plain(tiny_target(), data).scores) / 6)
    for item, *prompts in zip(data.forget, one, two, four, full, strict=True):
        clues = [prompt.split("\n\n")[:-1] for prompt in prompts]
        assert [len(c) for c in clues[:3]] == [1, 2, 4]
        # Each level keeps what the level before had, and only the last tells the answer.
        assert set(clues[0]) < set(clues[1]) < set(clues[2]) < set(clues[3])
        assert not any(gives_away(text, item) for c in clues[:3] for text in c)
        assert clues[3][-1] == item.text
        assert all(prompt.endswith(f"\n\n{item.prompt}") for prompt in prompts)


def test_scores_are_means_over_levels_with_clues_and_without_the_answer() -> None:
    found = in_context_reintroduction(tiny_target(), facts(), levels=(0, 1, 2, 4))
    assert found.curve is not None
    mean = sum(found.curve[level] for level in (1, 2, 4)) / 3
    assert sum(found.scores) / 6 == pytest.approx(mean)
    height = (found.curve[0] + found.curve[1]) / 2 + (found.curve[1] + found.curve[2]) / 2
    height = (height + 2 * (found.curve[2] + found.curve[4]) / 2) / 4
    assert f"area under the curve to 4 clues {height:.3g}" in found.note


def test_clues_of_the_subject_come_before_those_of_the_concept(scored: list[tuple[str, str]]) -> None:
    items = tuple(Item(f"t{n}?", f"t{n + 30}", subject="a" if n < 12 else "b", concept="c") for n in range(10, 15))
    in_context_reintroduction(tiny_target(), UnlearnData(items), levels=(1,))
    assert scored[0][0] == f"{items[1].text}\n\n{items[0].prompt}"
    alone = replace(items[0], subject="z")
    in_context_reintroduction(tiny_target(), UnlearnData((alone, *items[2:])), levels=(3,))
    assert scored[10][0].count("\n\n") == 3


def test_other_wordings_of_the_same_fact_are_no_clues(scored: list[tuple[str, str]]) -> None:
    items = (Item("t4?", "t9", subject="a"), Item("t5?", "t9", subject="a"), Item("t6?", "t8", subject="a"))
    found = in_context_reintroduction(tiny_target(), UnlearnData(items), levels=(2,))
    assert [prompt for prompt, _ in scored[:2]] == ["t6? t8\n\nt4?", "t6? t8\n\nt5?"]
    assert "2 of 3 items have fewer than 2 clues" in found.note


def test_the_seed_shuffles(scored: list[tuple[str, str]]) -> None:
    for seed in (0, 0, 1):
        in_context_reintroduction(tiny_target(), facts(), levels=(5,), seed=seed)
    one, same, other = by_level(scored, 6)[::2]
    assert one == same != other


def test_what_has_no_room_is_dropped_from_the_left_and_said(scored: list[tuple[str, str]]) -> None:
    clues = {f"t{n}": [f"t{k} " * 12 for k in range(40, 46)] for n in range(6)}
    found = in_context_reintroduction(tiny_target(), facts(), levels=(1, 6), clues=clues)
    assert "clues had no room at the highest level" in found.note
    assert all(
        prompt.split("\n\n")[-2] == item.text for (prompt, _), item in zip(scored[12:], facts().forget, strict=True)
    )


def test_a_gate_decides_on_prompts_with_clues() -> None:
    with gated(tiny_target()) as (target, seen):
        in_context_reintroduction(target, facts(), levels=(1,), clues={f"t{n}": ["t70 t71"] for n in range(6)})
    assert all("t70 t71" in prompt for prompt in seen)


@pytest.mark.parametrize("levels", [(), (0,), (2, 1), (1, 1), (-1, 2)])
def test_levels_rise(levels: Sequence[int]) -> None:
    with pytest.raises(VestigeError, match="levels are rising numbers of clues with one above 0 at least"):
        in_context_reintroduction(tiny_target(), facts(), levels=levels)


def test_errors() -> None:
    data = UnlearnData((Item("who?", "t9", subject="a"),))
    with pytest.raises(VestigeError, match=r"a clue for 'who.' holds the answer 't9'"):
        in_context_reintroduction(tiny_target(), data, clues={"a": ["t5", "it is t9"]})
    with pytest.raises(VestigeError, match=r"no clue about 'a' without the answer to 'who.'; give clues="):
        in_context_reintroduction(tiny_target(), data)
    with pytest.raises(VestigeError, match=r"no clue about 'a' .*; clues has subjects b"):
        in_context_reintroduction(tiny_target(), data, clues={"b": ["t5"]})
