"""Removing how far unlearning has moved a model: nothing to do on the original, everything undone where one direction
was added."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from interventions import steer
from tests.tiny import tiny_model
from tests.vestige.attacks.contract import AttackContract, facts
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.inside.direction_ablation import direction_ablation, principal_axis
from vestige.attacks.inside.steering import steering
from vestige.attacks.notes import notes_of
from vestige.attacks.plain import plain


class TestShift(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return direction_ablation(target, data, **settings)


class TestPrincipal(AttackContract):
    # The axis is read off single precision.
    tolerance = 1e-5
    arch = "llama"

    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return direction_ablation(target, data, axis="principal", **settings)


class TestAgainstRetain(AttackContract):
    tolerance = 1e-5

    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return direction_ablation(target, data, axis="retain", **settings)


@pytest.fixture(scope="module")
def original() -> HookedModel:
    return tiny_model("gpt2", dtype=torch.float64)


def moved(rng: torch.Generator, *, block: int = 1, size: float = 3.0) -> Intervention:
    """A "defence" that adds one vector to the output of a block."""
    vector = size * torch.randn(32, generator=rng, dtype=torch.float64)
    return steer(vector, sites=[("resid_post", block)])


def test_the_original_has_not_moved(original: HookedModel) -> None:
    target = Target("original", "original", original, original, notes_of(original, facts()))
    found = direction_ablation(target, facts())
    assert found.scores == plain(target, facts()).scores
    assert found.budget["blocks"] == 0
    assert "no direction to remove" in found.note


def test_the_direction_that_was_added_is_the_one_that_goes(original: HookedModel, rng: torch.Generator) -> None:
    """Behind the block that was moved, nothing is left along the shift; blocks before it have none."""
    notes = notes_of(original, facts())
    defence = moved(rng, block=2)
    with defence.applied(original) as view:
        target = Target("moved", "unlearned", view, view.raw, notes)
        found = direction_ablation(target, facts())
        before = plain(target, facts())
    assert found.budget["blocks"] == 1
    assert found.scores != pytest.approx(before.scores, rel=1e-3)
    # Whatever the size of what was added along it, the removed direction is the same.
    vector = next(iter(defence.edits.values())).vector  # type: ignore[attr-defined]
    with steer(-7 * vector, sites=[("resid_post", 2)]).applied(original) as view:
        other = direction_ablation(Target("other", "unlearned", view, view.raw, notes), facts())
    assert other.scores == pytest.approx(found.scores, abs=1e-5)


def test_the_axis_is_in_the_units_of_the_activations(rng: torch.Generator) -> None:
    """Activations that vary along one direction alone have that direction as their axis; in standardised coordinates
    all of its entries would be equally long."""
    direction = torch.randn(12, generator=rng, dtype=torch.float64) * torch.logspace(-2, 2, 12, dtype=torch.float64)
    acts = torch.randn(30, 1, generator=rng, dtype=torch.float64) * direction + 5
    axis = principal_axis(acts)
    assert float(torch.cosine_similarity(axis, direction, dim=0).abs()) == pytest.approx(1, abs=1e-9)
    signs = torch.cosine_similarity(direction.sign(), direction, dim=0).abs()
    assert signs < 0.9
    assert not principal_axis(torch.ones(4, 3)).any()


def test_the_principal_axis_is_that_of_both_together(original: HookedModel, rng: torch.Generator) -> None:
    """Two clusters far apart: the axis of the pool joins them, and removing it joins the clusters."""
    near = 0.01 * torch.randn(20, 8, generator=rng, dtype=torch.float64)
    apart = torch.randn(8, generator=rng, dtype=torch.float64)
    pool = torch.cat([near, near.flip(0) + apart])
    unit = principal_axis(pool) / principal_axis(pool).norm()
    left = pool - (pool @ unit)[:, None] * unit
    assert (left[:20].mean(0) - left[20:].mean(0)).norm() < 0.02 * apart.norm()


def test_steering_back_undoes_a_vector_that_was_added(original: HookedModel, rng: torch.Generator) -> None:
    notes = notes_of(original, facts())
    wanted = plain(Target("original", "original", original, original, notes), facts())
    with moved(rng, block=1).applied(original) as view:
        target = Target("moved", "unlearned", view, view.raw, notes)
        before = plain(target, facts())
        found = steering(target, facts(), layers=[1], alphas=[1.0], positions="all")
    assert found.scores == pytest.approx(wanted.scores, abs=1e-5)
    assert before.scores != pytest.approx(wanted.scores, rel=1e-2)


def test_errors_name_what_is_wrong(original: HookedModel) -> None:
    target = Target("one", "unlearned", original, original, notes_of(original, facts()))
    with pytest.raises(VestigeError, match="axis is one of shift, principal, retain, got 'mean'"):
        direction_ablation(target, facts(), axis="mean")  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match=r"axis='retain'\) needs retain items with a prompt"):
        direction_ablation(target, replace(facts(), retain=()), axis="retain")
    with pytest.raises(VestigeError, match=r"notes of the original have shape \(6, 3, 32\), .* \(2, 3, 32\)"):
        direction_ablation(target, UnlearnData(facts().forget[:2]))
