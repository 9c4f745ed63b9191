from collections.abc import Mapping
from typing import Any

import pytest
import torch

from hooked import Intervention, Item, Request, Spec, UnlearnData, VestigeError
from tests.tiny import byte_tokenizer, tiny_model
from tests.vestige.attacks.contract import AttackContract, facts
from tests.vestige.attacks.recording import gated, tiny_target
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.prompts.option_letters import option_letters

LETTERS = tuple(f"t{60 + n}" for n in range(6))


class TestOptionLetters(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return option_letters(target, data, **{"letters": LETTERS, **settings})


def saying(logits: Mapping[int, float], *, first: Mapping[int, float] | None = None) -> Intervention:
    """Return an intervention under which tokens have fixed logits, whatever is asked; others in the first row."""

    def fixed(given: torch.Tensor, request: Request) -> torch.Tensor:
        said = torch.full_like(given, -30.0)
        for token, value in logits.items():
            said[..., token] = value
        if first is not None:
            said[0] = -30.0
            for token, value in first.items():
                said[0, ..., token] = value
        return said

    return Intervention(Spec("saying", "attack"), logits=fixed)


def test_a_model_that_always_says_one_letter_scores_chance_exactly() -> None:
    target = tiny_target()
    with saying({60: 5.0, 61: 1.0}).applied(target.raw) as view:
        always = Target("always", "unlearned", view, view.raw, target.notes)
        found = option_letters(always, facts(), letters=LETTERS)
    assert found.scores == pytest.approx([1 / 3] * 6, abs=1e-12)
    assert found.floor == pytest.approx(1 / 3)


def test_every_item_is_asked_with_its_answer_at_every_place_before_the_cue() -> None:
    item = Item("t4: t5 ?\nt6:", "t7", perturbed_answers=("t8", "t9"))
    with gated(tiny_target()) as (target, seen):
        option_letters(target, UnlearnData((item,)), letters=("t60", "t61", "t62"))
    assert [[w for w in text.split() if w in ("t7", "t8", "t9")] for text in seen] == [
        ["t7", "t8", "t9"],
        ["t8", "t7", "t9"],
        ["t8", "t9", "t7"],
    ]


def spelling(*merges: tuple[str, str]) -> tuple[Target, list[int], list[int]]:
    """Return a target and the tokens of A, B and C at a line's beginning and after a space."""
    tokenizer = byte_tokenizer(*merges)
    model = tiny_model(tokenizer=tokenizer, vocab_size=len(tokenizer), dtype=torch.float64)
    bare, spaced = ([tokenizer(mark + x)["input_ids"][-1] for x in "ABC"] for mark in ("", " "))
    return Target("original", "original", model, model, tiny_target().notes), bare, spaced


# The first row of three has the answer at A.
CHOICE = UnlearnData((Item("q:", "x", perturbed_answers=("y", "z")),))


def test_both_encodings_of_a_letter_count() -> None:
    target, bare, spaced = spelling(("Ġ", "A"), ("Ġ", "B"), ("Ġ", "C"))
    assert not set(bare) & set(spaced)
    equal = dict.fromkeys(bare, 0.0)
    for ids in (bare, spaced):
        with saying(equal, first={ids[0]: 2.0, bare[1]: 2.0}).applied(target.raw) as view:
            found = option_letters(Target("u", "unlearned", view, view.raw, target.notes), CHOICE)
        assert found.scores[0] == pytest.approx((1 / 2 + 1 / 3 + 1 / 3) / 3)
    assert "of all probability without a space before them" in found.note


def test_one_token_for_both_encodings_counts_once() -> None:
    target, bare, spaced = spelling(("Ġ", "B"))
    assert bare[0] == spaced[0]
    with saying(dict.fromkeys(bare, 0.0), first={bare[0]: 0.0, bare[1]: 0.0, spaced[1]: 0.0}).applied(
        target.raw
    ) as view:
        found = option_letters(Target("u", "unlearned", view, view.raw, target.notes), CHOICE)
    assert found.scores[0] == pytest.approx((1 / 3 + 1 / 3 + 1 / 3) / 3)


def test_letters_that_are_one_token_are_refused() -> None:
    with pytest.raises(VestigeError, match="the tokenizer does not tell A, B, C apart; name other letters="):
        option_letters(tiny_target(), facts())
    with pytest.raises(VestigeError, match="options need at least two letters, got 1"):
        option_letters(tiny_target(), facts(), letters="A")
