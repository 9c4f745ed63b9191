"""The divergence itself is tested beside the other losses in `test_losses`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from interventions.batches import encode
from interventions.training.descent import Minibatch
from interventions.training.gradient_ascent import gradient_ascent
from interventions.training.gradient_ascent_kl import gradient_ascent_kl
from interventions.training.losses import kl_retain, predicting
from interventions.training.retain import retained, retained_kl
from tests.contracts import LossContract
from tests.interventions.training.knowing import probability
from tests.tiny import shared_model, tiny_model

FAST: dict[str, Any] = {"lr": 3e-3, "steps": 3, "progress": False}


class TestGradientAscentKL(LossContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return gradient_ascent_kl(model, data, **FAST)


class TestOnAnswersAlone(LossContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return gradient_ascent_kl(model, data, positions="answer", retain_weight=1.0, **FAST)


def test_it_starts_as_gradient_ascent(knowing: HookedModel, task: UnlearnData) -> None:
    same: dict[str, Any] = {"steps": 1, "batch_size": 6}
    first, ascent = (method(knowing, task, **same).spec.settings for method in (gradient_ascent_kl, gradient_ascent))
    assert first["first_loss"] == pytest.approx(ascent["first_loss"], abs=1e-6)


def test_the_divergence_is_taken_at_the_positions_asked_for(task: UnlearnData) -> None:
    current, original = tiny_model("llama", seed=1), shared_model("llama")
    tokens = encode(original, task.retain[:3])
    batch = Minibatch(tokens, torch.arange(3), tokens)
    with torch.no_grad():
        logits, before = current.logits(tokens), original.logits(tokens)
    for positions, where in (("real", tokens.mask), ("answer", predicting(tokens.answer))):
        value = retained_kl(current, original, batch, weight=2.0, positions=positions)  # type: ignore[arg-type]
        torch.testing.assert_close(value, 2 * kl_retain(logits, before, where))
    assert retained_kl(current, original, batch, weight=0.0) == retained(current, batch, weight=0.0) == 0
    with pytest.raises(VestigeError, match="positions is 'real' or 'answer', got 'all'"):
        retained_kl(current, original, batch, weight=1.0, positions="all")  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match="this loss needs retain items with an answer"):
        retained_kl(current, original, replace(batch, retain=None), weight=1.0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_predictions_on_the_rest_are_kept(seed: int, knowing: HookedModel, task: UnlearnData) -> None:
    same: dict[str, Any] = {"lr": 5e-3, "epochs": 40, "batch_size": 6, "seed": seed}
    tokens = encode(knowing, task.retain)
    with torch.no_grad():
        before = knowing.logits(tokens)
    kept, divergence = [], []
    for method in (gradient_ascent, gradient_ascent_kl):
        with method(knowing, task, **same).applied(knowing) as view, torch.no_grad():
            assert probability(view, task.forget) < 0.05
            kept.append(probability(view, task.retain))
            divergence.append(kl_retain(view.logits(tokens), before, tokens.mask).item())
    assert kept[1] > kept[0]
    assert kept[1] > 0.98
    assert divergence[1] < 0.5 * divergence[0]


def test_wrong_settings_are_named(task: UnlearnData) -> None:
    model = shared_model("gpt2")
    with pytest.raises(VestigeError, match="gradient_ascent_kl needs retain items"):
        gradient_ascent_kl(model, replace(task, retain=()))
    with pytest.raises(VestigeError, match="retain_weight is a finite number of at least 0, got -1"):
        gradient_ascent_kl(model, task, retain_weight=-1)
    with pytest.raises(VestigeError, match="positions is 'real' or 'answer', got 'all'"):
        gradient_ascent_kl(model, task, positions="all")  # type: ignore[arg-type]
