"""Offset unlearning: the sum forgets, not the small model, and the target's weights stay."""

from __future__ import annotations

from dataclasses import replace
from math import log
from typing import Any

import pytest
import torch

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from hooked.truncated import truncated
from interventions.decoding import Assistant, LogitCombiner, offset_unlearning
from tests.contracts import InterventionContract, assert_close
from tests.interventions.decoding.made import applied_logits, task_of, taught
from tests.interventions.training.knowing import probability
from tests.tiny import random_ids, shared_model, tiny_model

FAST: dict[str, Any] = {"steps": 3, "progress": False}


class TestOffset(InterventionContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return offset_unlearning(model, data, **FAST)


class TestOffsetWithoutRetain(InterventionContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return offset_unlearning(model, data, n_layers=2, retain_weight=0.0, **FAST)


def test_untrained_it_is_the_model_and_its_loss_starts_where_that_of_npo_does(
    tiny_data: UnlearnData, rng: torch.Generator
) -> None:
    model, ids = tiny_model("llama", dtype=torch.float64), random_ids(rng)
    made = offset_unlearning(model, tiny_data, steps=0, progress=False)
    with torch.no_grad():
        assert_close(applied_logits(made, model, ids), model.logits(ids))
    made = offset_unlearning(model, tiny_data, retain_weight=0.0, beta=0.1, steps=1, progress=False)
    assert made.spec.settings["first_loss"] == pytest.approx(20 * log(2))


def test_what_is_added_is_the_difference_to_the_untrained_blocks(tiny_data: UnlearnData, rng: torch.Generator) -> None:
    model, ids = tiny_model("gpt2", dtype=torch.float64), random_ids(rng)
    made = offset_unlearning(model, tiny_data, n_layers=2, weight=0.5, lr=1e-2, **FAST)
    combiner = made.logits
    assert isinstance(combiner, LogitCombiner)
    trained = combiner.others[0]
    assert isinstance(trained, Assistant)
    small, changed = truncated(model, 2), truncated(model, 2, patch=trained.weights)
    with torch.no_grad():
        before = model.logits(ids)
        wanted = before + 0.5 * (changed.logits(ids) - small.logits(ids))
    assert_close(applied_logits(made, model, ids), wanted)
    assert (wanted - before).abs().max() > 1e-2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_sum_forgets_and_keeps_the_rest(seed: int) -> None:
    data = task_of(seed)
    with taught(data.forget + data.retain, seed=seed) as model:
        assert probability(model, data.forget) > 0.99
        made = offset_unlearning(model, data, epochs=30, batch_size=6, lr=1e-2, progress=False)
        with made.applied(model) as view:
            assert probability(view, data.forget) < 0.05
            assert probability(view, data.retain) > 0.95
            assert probability(view.raw, data.forget) > 0.99


def test_what_is_out_of_range_is_named(tiny_data: UnlearnData) -> None:
    model = shared_model("gpt2")
    with pytest.raises(VestigeError, match="weight is another number than 0"):
        offset_unlearning(model, tiny_data, weight=0.0)
    for name in ("weight", "retain_weight"):
        with pytest.raises(VestigeError, match=f"{name} is a finite number, got inf"):
            offset_unlearning(model, tiny_data, **{name: float("inf")})  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match="retain_weight is at least 0, got -1"):
        offset_unlearning(model, tiny_data, retain_weight=-1)
    with pytest.raises(VestigeError, match="offset_unlearning with retain_weight=1 needs retain items"):
        offset_unlearning(model, replace(tiny_data, retain=()))
    with pytest.raises(VestigeError, match="beta must be a finite number above 0, got 0"):
        offset_unlearning(model, tiny_data, beta=0.0, **FAST)
