from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from hooked import HookedModel, Intervention, Item, Spec, UnlearnData, VestigeError
from interventions import cross_entropy, forget_nll, neuron_adjust, train
from probes import answer_probability
from tests.tiny import tiny_model
from tests.vestige.attacks.contract import AttackContract, facts
from vestige import organism
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.halves import two_halves
from vestige.attacks.notes import notes_of
from vestige.attacks.plain import plain
from vestige.attacks.weights.relearning import relearning

QUICK: dict[str, Any] = {"steps": (0, 1, 2), "lrs": (1e-2,)}


class TestRelearning(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return relearning(target, data, **QUICK, **settings)


class TestThroughTheView(AttackContract):
    arch = "llama"

    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return relearning(target, data, **QUICK, through="view", on="forget", **settings)


class TestAdapters(AttackContract):
    # Adapters are float32 on a float64 model.
    tolerance = 1e-5

    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return relearning(target, data, **QUICK, lora=2, on="control", **settings)


def as_target(model: HookedModel, data: UnlearnData, *, raw: HookedModel | None = None) -> Target:
    return Target("one", "unlearned", model, model if raw is None else raw, notes_of(model, data))


@pytest.fixture(scope="module")
def tiny() -> Target:
    return as_target(tiny_model("llama", dtype=torch.float64), facts())


def test_step_0_is_the_plain_question(tiny: Target) -> None:
    before = plain(tiny, facts()).scores
    settings: dict[str, Any]
    for settings in ({}, {"lora": 2}, {"on": "retain"}):
        curve = relearning(tiny, facts(), **QUICK, **settings).curve
        assert curve is not None
        assert tuple(curve) == (0, 1, 2)
        assert curve[0] == pytest.approx(sum(before) / len(before), abs=1e-6)


def test_each_half_is_asked_on_a_model_that_was_taught_the_other(tiny: Target) -> None:
    data = facts()
    found = relearning(tiny, data, steps=(2,), lrs=(1e-2,), seed=4)
    oracle = torch.zeros(len(data.forget), dtype=torch.float64)
    one, other = two_halves(data.forget, seed=4)
    for taught, asked in ((one, other), (other, one)):
        trained = train(
            tiny.raw,
            UnlearnData(tuple(data.forget[row] for row in taught)),
            lambda model, batch: cross_entropy(forget_nll(model, batch)),
            lr=1e-2,
            steps=2,
            seed=4,
        )
        with Intervention(Spec("taught", "attack"), weights=trained.patch).applied(tiny.raw) as view:
            oracle[asked] = answer_probability(view, [data.forget[row] for row in asked])
    curve = found.curve
    assert curve is not None
    assert curve[2] == pytest.approx(float(oracle.mean()), rel=1e-9)


def test_the_most_leaking_curve_counts_and_its_highest_point(tiny: Target) -> None:
    found = relearning(tiny, facts(), on="forget", steps=(0, 1, 5), lrs=(1e-6, 1e-2, 1e-4))
    curves = found.budget["curves"]
    assert set(curves) == {"1e-06", "0.01", "0.0001"}
    assert found.budget["lr"] == 1e-2
    assert found.curve == dict(zip((0, 1, 5), curves["0.01"], strict=True))
    assert sum(curves["0.01"]) == max(map(sum, curves.values()))
    assert sum(found.scores) / len(found.scores) == pytest.approx(max(curves["0.01"]))
    assert "after 5 steps at lr 0.01" in found.note


def test_a_rate_that_breaks_the_model_counts_as_nothing_from_there_on(tiny: Target) -> None:
    found = relearning(tiny, facts(), on="forget", steps=(0, 1, 2, 4), lrs=(1e-2, 1e300))
    broken = found.budget["curves"]["1e+300"]
    assert broken[0] > 0
    assert broken[1:] == [0, 0, 0]
    assert found.budget["lr"] == 1e-2


def test_hooks_are_stripped_unless_it_is_said_otherwise(tiny: Target) -> None:
    class Silence:
        def __call__(self, activation: torch.Tensor, hook: Any) -> torch.Tensor:
            return torch.zeros_like(activation)

    hidden = Intervention(Spec("hide", "suppression"), edits={"blocks.1.hook_mlp_out": Silence()})
    with hidden.applied(tiny.raw) as view:
        subject = replace(tiny, view=view, raw=view.raw)
        raw, through = (relearning(subject, facts(), **QUICK, through=t) for t in ("raw", "view"))
    plainly = relearning(tiny, facts(), **QUICK)
    assert raw.scores == plainly.scores
    assert raw.curve == plainly.curve
    assert through.curve != plainly.curve
    assert "bare weights" in raw.note
    assert "deployed system" in through.note


def test_dropout_stays_off() -> None:
    model = tiny_model("gpt2", resid_pdrop=0.5, embd_pdrop=0.5)
    wanted = relearning(as_target(model, facts()), facts(), **QUICK)
    model.model.train()
    assert relearning(as_target(model, facts()), facts(), **QUICK).curve == wanted.curve
    assert model.model.training


def test_no_more_items_are_taught_than_allowed(tiny: Target) -> None:
    assert relearning(tiny, facts(), **QUICK, on="retain").budget["items"] == 12
    few = relearning(tiny, facts(), **QUICK, on="retain", max_items=2)
    assert few.budget["items"] == 2
    assert few == relearning(tiny, facts(), **QUICK, on="retain", max_items=2)


def test_errors_name_what_is_missing(tiny: Target) -> None:
    data = facts()
    with pytest.raises(VestigeError, match="on is one of disjoint, forget, retain, control, got 'both'"):
        relearning(tiny, data, on="both")  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match="through is 'raw' or 'view', got 'hooks'"):
        relearning(tiny, data, through="hooks")  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match=r"with on='retain' needs retain items .* none of 0 is one; give them to"):
        relearning(tiny, replace(data, retain=()), on="retain")
    leaking = tuple(Item("t1 t2 t3", item.answer) for item in data.forget)
    with pytest.raises(VestigeError, match="none of 6 is one"):
        relearning(tiny, replace(data, control=leaking), on="control")
    with pytest.raises(VestigeError, match="at least one learning rate"):
        relearning(tiny, data, lrs=())
    with pytest.raises(VestigeError, match=r"steps are numbers of updates, one of them at least 1, got \(0,\)"):
        relearning(tiny, data, steps=(0,))
    with pytest.raises(VestigeError, match="max_items is at least 1, got 0"):
        relearning(tiny, data, max_items=0)
    with pytest.raises(VestigeError, match="state one fact"):
        relearning(tiny, UnlearnData(data.forget[:1]))


def test_what_was_only_suppressed_comes_back_and_what_was_never_taught_does_not() -> None:
    """Two steps on one half of the facts free the other half of a defended model; the control guesses as before."""
    data = organism.organism_data()
    data = replace(data, retain=data.retain[::10])
    full, never = (
        HookedModel.from_pretrained(organism.organism_path(name), dtype="float32") for name in ("full", "never")
    )
    quick: dict[str, Any] = {"steps": (2,), "lrs": (1e-3,), "through": "view"}
    with neuron_adjust(full, data).applied(full) as view:
        before = float(answer_probability(view, data.forget).mean())
        after = relearning(as_target(view, data, raw=full), data, **quick).scores
    control = relearning(as_target(never, data), data, **quick).scores
    assert before < 0.5
    assert sum(after) / len(after) > 0.8
    assert sum(control) / len(control) < 0.03
