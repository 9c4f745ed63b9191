"""What every attack must do; the test of an attack inherits it and says how to make the call."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from hooked import Intervention, Item, Spec, UnlearnData
from tests.tiny import tiny_model
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.notes import notes_of


def facts() -> UnlearnData:
    """Some made-up facts with everything an attack may use; answers differ in length."""

    def item(n: int) -> Item:
        return Item(
            f"the {n} of t{n} is",
            " ".join(f"t{(7 * n + k) % 40}" for k in range(1 + n % 3)),
            paraphrased_prompt=f"t{n} has which {n}?",
            perturbed_answers=(f"t{(7 * n + 11) % 40}", f"t{(7 * n + 13) % 40} t3"),
            subject=f"t{n}",
            concept="a" if n < 6 else "b",
            relation=f"r{n % 3}",
        )

    return UnlearnData(
        tuple(item(n) for n in range(6)),
        retain=tuple(item(n) for n in range(6, 18)),
        control=tuple(item(n) for n in range(18, 22)),
    )


@cache
def _target(arch: str) -> Target:
    """One model for all attacks: that they leave it as it was is one of the tests."""
    model = tiny_model(arch, dtype=torch.float64)
    return Target("original", "original", model, model, notes_of(model, facts(), batch_size=8))


class AttackContract(ABC):
    """Inherit it as `TestName`; `attack` makes the call with settings small enough for a test."""

    arch = "gpt2"
    # Largest difference of a score between batches of 2 and of 32 rows.
    tolerance = 1e-9
    # Attacks that train or search in batches say so; all others only split what they measure.
    batches_matter = False

    @abstractmethod
    def attack(self, target: Target, data: UnlearnData, *, batch_size: int = 32, seed: int = 0) -> Attacked:
        """Make the call."""

    @pytest.fixture
    def target(self) -> Target:
        return _target(self.arch)

    def test_one_score_per_forget_item_in_the_unit_interval(self, target: Target) -> None:
        found = self.attack(target, facts())
        assert len(found.scores) == len(facts().forget)
        assert all(0 <= score <= 1 for score in found.scores)
        assert all(isinstance(score, float) for score in found.scores)
        assert found.floor is None or 0 <= found.floor <= 1

    def test_a_subject_is_left_as_it_was(self, target: Target) -> None:
        model = target.raw.model
        before = {name: value.clone() for name, value in target.raw.state().items()}
        hooks = {name: len(module._forward_hooks) for name, module in model.named_modules()}
        grads = {name: p.grad for name, p in model.named_parameters()}
        training = model.training
        self.attack(target, facts())
        assert all(torch.equal(value, before[name]) for name, value in target.raw.state().items())
        assert hooks == {name: len(module._forward_hooks) for name, module in model.named_modules()}
        assert all(p.grad is grads[name] for name, p in model.named_parameters())
        assert model.training == training

    def test_a_seed_decides_everything(self, target: Target) -> None:
        assert self.attack(target, facts(), seed=3) == self.attack(target, facts(), seed=3)

    def test_batches_change_nothing(self, target: Target) -> None:
        if self.batches_matter:
            pytest.skip("this attack trains or searches in batches")
        one, other = (self.attack(target, facts(), batch_size=size) for size in (2, 32))
        assert one.scores == pytest.approx(other.scores, abs=self.tolerance)

    def test_the_budget_is_json_and_says_what_was_spent(self, target: Target) -> None:
        budget = self.attack(target, facts()).budget
        assert budget
        assert json.loads(json.dumps(dict(budget))) == dict(budget)

    def test_a_view_can_be_attacked_and_its_weights_return(self, target: Target) -> None:
        model = target.raw
        nothing = Intervention(Spec("nothing", "suppression"), edits={"blocks.0.hook_resid_post": Same()})
        with nothing.applied(model) as view:
            through = self.attack(replace(target, view=view, raw=view.raw), facts())
        assert through.scores == pytest.approx(self.attack(target, facts()).scores, abs=1e-6)


class Same:
    """An edit that changes nothing."""

    def __call__(self, activation: torch.Tensor, hook: Any) -> torch.Tensor:
        return activation.clone()
