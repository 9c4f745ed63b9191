from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import log
from typing import Any

import pytest
import torch

from hooked import HookedModel, Intervention, Item, UnlearnData, VestigeError
from interventions import (
    gradient_ascent,
    gradient_difference,
    idk_finetune,
    npo,
)
from interventions.batches import encode
from interventions.training import Minibatch, forget_nll
from tests.contracts import InterventionContract, LossContract
from tests.interventions.training.knowing import probability
from tests.tiny import shared_model

REFUSALS = ("t5 t6", "t7 t8 t9")
FAST: dict[str, Any] = {"lr": 3e-3, "steps": 3, "progress": False}


class TestGradientAscent(InterventionContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return gradient_ascent(model, data, **FAST)


class TestGradientDifference(LossContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return gradient_difference(model, data, **FAST)


class TestNPO(LossContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return npo(model, data, **FAST)


class TestNPOWithoutRetain(LossContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return npo(model, data, retain_weight=0.0, **FAST)


class TestIDK(LossContract):
    required = ("retain",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return idk_finetune(model, data, refusals=REFUSALS, **FAST)


METHODS: dict[str, Callable[..., Intervention]] = {
    "gradient_ascent": gradient_ascent,
    "gradient_difference": gradient_difference,
    "npo": npo,
}


@pytest.mark.parametrize("name", METHODS)
def test_what_was_known_is_forgotten(name: str, knowing: HookedModel, task: UnlearnData) -> None:
    assert probability(knowing, task.forget) > 0.9
    assert probability(knowing, task.retain) > 0.9
    made = METHODS[name](knowing, task, lr=3e-3, epochs=40, batch_size=6, stop_fraction=0.05)
    with made.applied(knowing) as view:
        assert probability(view, task.forget) < 0.05
        if name != "gradient_ascent":
            assert probability(view, task.retain) > 0.8
    assert probability(knowing, task.forget) > 0.9
    assert made.spec.name == name
    assert made.spec.settings["forget_probability"] < 0.05
    assert "the forget probability was" in made.spec.settings["stopped"]


def test_a_refusal_is_taught_and_the_rest_kept(knowing: HookedModel, task: UnlearnData) -> None:
    made = idk_finetune(knowing, task, refusals=REFUSALS[:1], lr=2e-3, epochs=40, batch_size=6)
    with made.applied(knowing) as view:
        said = view.generate([item.prompt for item in task.forget], max_new_tokens=2)
        kept = view.generate([item.prompt for item in task.retain], max_new_tokens=1)
    assert said == [REFUSALS[0]] * len(task.forget)
    first_words = [item.answer.split()[0] for item in task.retain]
    assert sum(a == b for a, b in zip(kept, first_words, strict=True)) >= 10


def test_npo_starts_at_its_known_value(knowing: HookedModel, task: UnlearnData) -> None:
    made = npo(knowing, task, retain_weight=0.0, beta=0.1, steps=1, batch_size=6)
    assert made.spec.settings["first_loss"] == pytest.approx(20 * log(2), rel=1e-5)


def test_a_reduction_reaches_the_loss(knowing: HookedModel, task: UnlearnData) -> None:
    batch = encode(knowing, task.forget)
    nll = forget_nll(knowing, Minibatch(batch, torch.arange(6), None))
    once: dict[str, Any] = {"steps": 1, "batch_size": 6}
    by_hand = {"mean": -nll.mean.mean().item(), "token": -(nll.total.sum() / nll.count.sum()).item()}
    assert by_hand["mean"] != pytest.approx(by_hand["token"], rel=1e-3)
    for reduction, wanted in by_hand.items():
        settings: dict[str, Any] = {"reduction": reduction, **once}
        for made in (
            gradient_ascent(knowing, task, **settings),
            gradient_difference(knowing, task, alpha=0, **settings),
        ):
            assert made.spec.settings["first_loss"] == pytest.approx(wanted, rel=1e-4), (made.spec.name, reduction)


def test_npo_keeps_the_rest_by_its_retain_term(knowing: HookedModel, task: UnlearnData) -> None:
    same: dict[str, Any] = {"epochs": 30, "lr": 3e-3, "batch_size": 6}
    kept = []
    for weight in (0.0, 1.0):
        with npo(knowing, task, retain_weight=weight, **same).applied(knowing) as view:
            assert probability(view, task.forget) < 0.1
            kept.append(probability(view, task.retain))
    assert kept[0] < kept[1] - 0.1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_npo_lets_go_of_forgotten_answers_and_gradient_ascent_does_not(
    seed: int, knowing: HookedModel, task: UnlearnData
) -> None:
    same: dict[str, Any] = {"epochs": 40, "lr": 2e-3, "batch_size": 6, "stop_fraction": None, "seed": seed}
    ascent = gradient_ascent(knowing, task, **same)
    bounded = npo(knowing, task, retain_weight=0.0, beta=1.0, **same)
    assert ascent.spec.settings["last_loss"] < -10
    assert 0 < bounded.spec.settings["last_loss"] < 1
    with ascent.applied(knowing) as view:
        ruined = probability(view, task.retain)
    with bounded.applied(knowing) as view:
        assert probability(view, task.forget) < 0.1
        assert probability(view, task.retain) > ruined


def test_every_prompt_keeps_its_refusal_through_the_epochs(task: UnlearnData, monkeypatch: pytest.MonkeyPatch) -> None:
    from interventions import batches
    from interventions.training import descent

    seen: list[tuple[str, str]] = []
    encode = batches.encode

    def spy(model: HookedModel, items: list[Item]) -> Any:
        seen.extend((item.prompt, item.answer) for item in items if item.answer in REFUSALS)
        return encode(model, items)

    monkeypatch.setattr(descent, "encode", spy)
    prompts = [item.prompt for item in task.forget]
    pairings = []
    for seed in (0, 0, 1):
        seen.clear()
        idk_finetune(shared_model("gpt2"), task, refusals=REFUSALS, epochs=3, seed=seed)
        assert len(seen) == 3 * len(prompts)
        assert len(set(seen)) == len(prompts)
        pairings.append(dict(seen))
    assert pairings[0] == pairings[1] != pairings[2]
    assert set(pairings[0].values()) == set(REFUSALS)


def test_wrong_settings_are_named(task: UnlearnData) -> None:
    model = shared_model("gpt2")
    with pytest.raises(VestigeError, match="retain_weight is a finite number of at least 0, got -1"):
        npo(model, task, retain_weight=-1)
    with pytest.raises(VestigeError, match="beta must be a finite number above 0, got 0"):
        npo(model, task, beta=0.0)
    with pytest.raises(VestigeError, match="retain_weight is a finite number of at least 0, got nan"):
        npo(model, task, retain_weight=float("nan"))
    for name in ("gamma", "alpha"):
        with pytest.raises(VestigeError, match=f"{name} is a finite number of at least 0, got nan"):
            gradient_difference(model, task, **{name: float("nan")})  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match="idk_finetune teaches refusals, and stop_fraction= would wait"):
        idk_finetune(model, task, stop_fraction=0.1)
    with pytest.raises(VestigeError, match="npo with retain_weight=1 needs retain items"):
        npo(model, replace(task, retain=()))
    with pytest.raises(VestigeError, match=r"idk_finetune needs refusals of at least one word each, got \[\]"):
        idk_finetune(model, task, refusals=())
    documents = tuple(replace(item, prompt="") for item in task.forget)
    with pytest.raises(VestigeError, match="needs forget items with a prompt to refuse, and all are plain documents"):
        idk_finetune(model, replace(task, forget=documents), refusals=REFUSALS)


def test_plain_documents_can_be_forgotten(task: UnlearnData) -> None:
    documents = tuple(Item("", f"{item.prompt} {item.answer}") for item in task.forget)
    made = gradient_ascent(shared_model("gpt2"), replace(task, forget=documents), steps=2, lr=1e-3, stop_fraction=None)
    assert made.spec.settings["last_loss"] < made.spec.settings["first_loss"]
