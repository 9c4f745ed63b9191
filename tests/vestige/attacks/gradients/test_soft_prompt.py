"""Soft prompts: optimised on some facts, scored on others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hooked import UnlearnData, VestigeError
from tests.tiny import tiny_model
from tests.vestige.attacks.contract import AttackContract, facts
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.gradients.folds import folds_of
from vestige.attacks.gradients.soft_prompt import soft_prompt
from vestige.attacks.notes import notes_of


class TestSoftPrompt(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return soft_prompt(target, data, n_tokens=2, steps=2, restarts=2, **settings)


@pytest.fixture
def target() -> Target:
    model = tiny_model("llama")
    return Target("original", "original", model, model, notes_of(model, facts()))


def test_with_the_same_facts_it_learns_their_answers(target: Target) -> None:
    before, after = (
        soft_prompt(target, facts(), n_tokens=6, steps=steps, lr=2.0, learn_from="same") for steps in (0, 12)
    )
    assert np.log(after.scores).mean() > np.log(before.scores).mean() + 1
    assert after.budget["learn_from"] == "same"


def test_the_restart_that_got_furthest_is_scored(target: Target) -> None:
    def mean(restarts: int) -> float:
        scores = soft_prompt(target, facts(), n_tokens=2, steps=0, restarts=restarts, learn_from="same").scores
        return float(np.log(scores).mean())

    assert mean(8) > mean(1)


def test_an_items_own_answer_teaches_nothing_it_is_scored_with(target: Target) -> None:
    data = facts()
    first = folds_of(data, "half", most=1, seed=0, attack="x")[0]
    row = first.scored[0]
    others = tuple(replace(item, answer="t90 t91") if n == row else item for n, item in enumerate(data.forget))
    before, after = (
        soft_prompt(target, replace(data, forget=items), n_tokens=2, steps=3) for items in (data.forget, others)
    )
    for n in first.scored[1:]:
        assert after.scores[n] == pytest.approx(before.scores[n], rel=1e-5)
    assert after.scores[row] != pytest.approx(before.scores[row], rel=1e-5)


def test_kept_facts_alone_need_no_forget_answer(target: Target) -> None:
    data = facts()
    renamed = replace(data, forget=tuple(replace(item, answer="t5") for item in data.forget))
    one, other = (soft_prompt(target, task, steps=1, n_tokens=2, learn_from="retain") for task in (renamed, data))
    assert one.scores != other.scores
    assert one.budget == other.budget


def test_it_learns_in_a_frozen_model_without_grad_mode(target: Target) -> None:
    for parameter in target.raw.model.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        quiet = soft_prompt(target, facts(), n_tokens=2, steps=2)
    assert not any(p.requires_grad for p in target.raw.model.parameters())
    assert quiet == soft_prompt(target, facts(), n_tokens=2, steps=2)


def test_errors_are_one_line_and_say_what_came(target: Target) -> None:
    with pytest.raises(VestigeError, match=r"steps >= 0, restarts >= 1, lr > 0; got 1, 0, 0\.25"):
        soft_prompt(target, facts(), steps=1, restarts=0)
    with pytest.raises(VestigeError, match=r"and data\.retain has none"):
        soft_prompt(target, UnlearnData(facts().forget), learn_from="retain")
    with torch.no_grad():
        target.raw.model.lm_head.weight[9] = torch.inf  # type: ignore[union-attr, index, operator]
    with pytest.raises(VestigeError, match="soft_prompt diverged in all 2 restarts; lower lr"):
        soft_prompt(target, facts(), n_tokens=2, steps=1, restarts=2)
