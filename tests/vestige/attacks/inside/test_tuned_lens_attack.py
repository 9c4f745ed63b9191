"""The lens attack with a fitted lens."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from hooked import UnlearnData, VestigeError
from tests.tiny import tiny_model
from tests.vestige.attacks.contract import AttackContract, facts
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.inside.lens_attack import lens_attack
from vestige.attacks.inside.tuned_lens_attack import tuned_lens_attack
from vestige.attacks.notes import notes_of


class TestTunedLens(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return tuned_lens_attack(target, data, steps=4, order=1, **settings)


@pytest.fixture
def target() -> Target:
    model = tiny_model("gpt2")
    return Target("original", "original", model, model, notes_of(model, facts()))


@pytest.mark.parametrize("order", [0, 1, 2])
def test_an_unfitted_lens_is_the_logit_lens(target: Target, order: Any) -> None:
    tuned = tuned_lens_attack(target, facts(), order=order, steps=0, budget=9)
    assert tuned.scores == lens_attack(target, facts(), order=order, budget=9).scores


def test_the_lens_is_the_originals_whatever_the_subject(target: Target) -> None:
    other = tiny_model("gpt2", seed=1)
    found = tuned_lens_attack(replace(target, view=other, raw=other), facts(), steps=4, budget=9)
    again = tuned_lens_attack(
        replace(target, view=other, raw=other, notes=replace(target.notes, forget=target.notes.forget * 0)),
        replace(facts(), retain=()),
        steps=4,
        budget=9,
    )
    assert found == again
    assert found.budget["steps"] == 4


def test_errors_are_one_line_and_say_what_came(target: Target) -> None:
    with pytest.raises(VestigeError, match=r"fits its lens on retain prompts, and data\.retain is empty"):
        tuned_lens_attack(replace(target, notes=replace(target.notes, retain=None)), facts())
    deeper = tiny_model("gpt2", n_layer=4, dtype=torch.float32)
    with pytest.raises(VestigeError, match="a tuned lens of 3 blocks cannot read the subject's 4"):
        tuned_lens_attack(replace(target, view=deeper), facts())
