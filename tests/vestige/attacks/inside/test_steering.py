from __future__ import annotations

from math import nan
from typing import Any

import pytest
import torch

from hooked import HookedModel, UnlearnData, VestigeError
from tests.tiny import tiny_model
from tests.vestige.attacks.contract import AttackContract, facts
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.inside.steering import steering
from vestige.attacks.most_leaking import most_leaking
from vestige.attacks.notes import notes_of
from vestige.attacks.plain import plain


class TestSteering(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return steering(target, data, alphas=(1.0, 2.0), **settings)


@pytest.fixture(scope="module")
def other() -> tuple[HookedModel, Target]:
    """An original and a model of other weights."""
    original, model = (tiny_model("llama", dtype=torch.float64, seed=seed) for seed in (0, 1))
    return original, Target("other", "unlearned", model, model, notes_of(original, facts()))


def test_the_original_is_not_moved() -> None:
    model = tiny_model("llama", dtype=torch.float64)
    target = Target("original", "original", model, model, notes_of(model, facts()))
    assert steering(target, facts()).scores == pytest.approx(plain(target, facts()).scores, abs=1e-12)


def test_the_best_of_the_grid_is_found_and_all_of_it_is_counted(other: tuple[HookedModel, Target]) -> None:
    _, target = other
    found = steering(target, facts(), alphas=(0.5, 3.0))
    singles = {
        (layer, alpha): sum(steering(target, facts(), alphas=[alpha], layers=[layer]).scores)
        for layer in range(3)
        for alpha in (0.5, 3.0)
    }
    best = max(singles, key=lambda setting: singles[setting])
    assert (found.budget["block"], found.budget["alpha"]) == best
    assert sum(found.scores) == pytest.approx(singles[best])
    assert found.budget["queries"] == 6 * 6
    assert found.note == f"most leaking at block {best[0]} with factor {best[1]:g}"


def test_the_first_of_equals_is_kept() -> None:
    same = Attacked((0.5, 0.5), budget={"queries": 2})
    setting, found = most_leaking(["a", "b"], lambda name: same)
    assert setting == "a"
    assert found.budget == {"queries": 4}


def test_the_last_block_is_moved_to_where_the_original_is_on_average(other: tuple[HookedModel, Target]) -> None:
    original, target = other
    one = UnlearnData(facts().forget[:1])
    # Of a single item the mean is its own residual, and the answer's first token follows from the last block alone.
    moved = Target("other", "unlearned", target.view, target.raw, notes_of(original, one))
    found = steering(moved, one, alphas=[1.0], layers=[-1])
    head = target.raw.lens(torch.tensor(moved.notes.forget[0, -1], dtype=torch.float64))
    first = target.raw.tokenize(one.forget[0].prompt, answers=one.forget[0].answer)
    label = int(first.ids[first.answer][0])
    assert len(first.ids[first.answer]) == 1
    assert found.scores[0] == pytest.approx(float(head.softmax(-1)[label].detach()), rel=1e-4)


def test_errors_name_what_is_wrong(other: tuple[HookedModel, Target]) -> None:
    _, target = other
    with pytest.raises(VestigeError, match=r"alphas are finite numbers, at least one, got \(\)"):
        steering(target, facts(), alphas=())
    with pytest.raises(VestigeError, match="alphas are finite numbers"):
        steering(target, facts(), alphas=(nan,))
    with pytest.raises(VestigeError, match=r"layers are some of 0 to 2 .* got 9"):
        steering(target, facts(), layers=[9])
