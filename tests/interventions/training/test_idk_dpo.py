"""The loss itself is tested beside the others in `test_losses`."""

from __future__ import annotations

from dataclasses import replace
from math import log
from typing import Any

import pytest

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from interventions.training.idk_dpo import idk_dpo
from tests.contracts import LossContract
from tests.interventions.training.knowing import probability
from tests.tiny import shared_model

FAST: dict[str, Any] = {"lr": 3e-3, "steps": 3, "progress": False}
REFUSALS = ("t5 t6", "t7 t8 t9")


class TestIDKDPO(LossContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return idk_dpo(model, data, refusals=REFUSALS, **FAST)


class TestIDKDPOWithoutRetain(LossContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return idk_dpo(model, data, refusals=REFUSALS, retain_weight=0.0, scale="1", **FAST)


def first_loss(model: HookedModel, task: UnlearnData, **settings: Any) -> Any:
    made = idk_dpo(model, task, refusals=REFUSALS, retain_weight=0.0, steps=1, batch_size=6, **settings)
    return made.spec.settings["first_loss"]


def test_it_starts_at_its_known_value(knowing: HookedModel, task: UnlearnData) -> None:
    assert first_loss(knowing, task, beta=0.1) == pytest.approx(20 * log(2), rel=1e-5)
    assert first_loss(knowing, task, beta=0.1, scale="1") == pytest.approx(log(2), rel=1e-5)


def test_rows_meet_their_own_references_in_every_batch(knowing: HookedModel, task: UnlearnData) -> None:
    """With steps too small to matter every batch starts at log 2: refusals, answers and references match."""
    made = idk_dpo(
        knowing, task, refusals=REFUSALS, retain_weight=0.0, beta=0.1, scale="1", steps=6, batch_size=2, lr=1e-9
    )
    assert made.spec.settings["last_loss"] == pytest.approx(log(2), rel=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_refusal_is_said_and_the_answer_let_go(seed: int, knowing: HookedModel, task: UnlearnData) -> None:
    same: dict[str, Any] = {"refusals": REFUSALS[:1], "lr": 2e-3, "epochs": 20, "batch_size": 3, "seed": seed}
    assert probability(knowing, task.forget) > 0.9
    kept = []
    for weight in (0.0, 1.0):
        with idk_dpo(knowing, task, retain_weight=weight, **same).applied(knowing) as view:
            said = view.generate([item.prompt for item in task.forget], max_new_tokens=2)
            assert said.count(REFUSALS[0]) >= 5
            assert probability(view, task.forget) < 0.2
            kept.append(probability(view, task.retain))
    assert kept[1] > 0.9
    # The retain term mends nine tenths of what is lost without it.
    assert 1 - kept[1] < 0.1 * (1 - kept[0])


def test_refusals_that_have_much_to_gain_call_for_a_smaller_beta(knowing: HookedModel, task: UnlearnData) -> None:
    betas = []
    for refusal in ("t5", " ".join(["t5 t6 t7 t8"] * 6)):
        made = idk_dpo(knowing, task, refusals=[refusal], steps=1)
        betas.append(made.spec.settings["beta"])
    assert 0 < betas[1] < 0.05 < betas[0] <= 1
    assert idk_dpo(knowing, task, beta=0.1, steps=1).spec.settings["beta"] == 0.1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_at_a_fixed_beta_a_long_refusal_is_learned_and_the_answers_are_kept(
    seed: int, knowing: HookedModel, task: UnlearnData
) -> None:
    long = " ".join(f"t{i}" for i in range(5, 29))
    same: dict[str, Any] = {"refusals": [long], "lr": 2e-3, "epochs": 20, "batch_size": 3, "seed": seed}
    left = []
    for beta in (1.0, "auto"):
        with idk_dpo(knowing, task, beta=beta, **same).applied(knowing) as view:
            left.append(probability(view, task.forget))
    assert left[1] < 0.2
    assert left[0] > 0.5


def test_needs_follow_the_settings_and_wrong_ones_are_named(task: UnlearnData) -> None:
    model = shared_model("gpt2")
    made = idk_dpo(model, replace(task, retain=()), retain_weight=0.0, steps=1)
    assert made.spec.needs == ("forget", "reference")
    with pytest.raises(VestigeError, match="beta must be a finite number above 0, got 0"):
        idk_dpo(model, task, beta=0.0)
    with pytest.raises(VestigeError, match="scale must be '2/beta' or '1', got '2'"):
        idk_dpo(model, task, scale="2")  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match="idk_dpo with retain_weight=1 needs retain items"):
        idk_dpo(model, replace(task, retain=()))
    documents = tuple(replace(item, prompt="") for item in task.forget)
    with pytest.raises(VestigeError, match="idk_dpo needs forget items with a prompt to refuse"):
        idk_dpo(model, replace(task, forget=documents))
