"""One request after the other: what each is fitted on, and what comes back."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from interventions import gradient_ascent, neuron_adjust, npo, selective_pruning, sequentially
from tests.contracts import InterventionContract
from tests.interventions.conftest import make_items
from tests.interventions.training.knowing import probability
from tests.tiny import shared_model

FAST: dict[str, Any] = {"lr": 3e-3, "steps": 2, "progress": False}


def halves(data: UnlearnData) -> list[UnlearnData]:
    return [UnlearnData(data.forget[:6], data.retain), UnlearnData(data.forget[6:], data.retain)]


class TestSequentialTraining(InterventionContract):
    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return sequentially(model, halves(data), npo, **FAST)


class TestSequentialHooks(InterventionContract):
    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return sequentially(model, halves(data), neuron_adjust, top=0.1, mode="mean")


class TestTrainingOnAnEditedModel(InterventionContract):
    """Adapters trained on a model whose activations are edited, composed with that edit."""

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        first = neuron_adjust(model, data, top=0.1, mode="deterministic")
        with first.applied(model) as view:
            return first + gradient_ascent(view, data, lora=2, **FAST)


def test_earlier_requests_stay_forgotten(knowing: HookedModel, task: UnlearnData) -> None:
    parts = [task.forget[:3], task.forget[3:]]
    requests = [UnlearnData(parts[0], task.retain + parts[1]), UnlearnData(parts[1], task.retain + parts[0])]
    settings: dict[str, Any] = {"lr": 2e-3, "epochs": 40, "batch_size": 6}
    made = sequentially(knowing, requests, npo, **settings)
    assert made.spec.name == "npo + npo"
    assert len(made.parts) == 2
    assert min(probability(knowing, part) for part in parts) > 0.9
    with made.parts[0].applied(knowing) as view:
        assert probability(view, parts[0]) < 0.1
        assert probability(view, parts[1]) > 0.8
        # The control: taught as retained, the first comes back.
        with npo(view, requests[1], **settings).applied(view) as taught:
            assert probability(taught, parts[0]) > 0.8
    with made.applied(knowing) as view:
        # The second request lists the first's items as retained: they must not be taught again.
        assert max(probability(view, part) for part in parts) < 0.1
        assert probability(view, task.retain) > 0.8


def test_each_request_is_fitted_on_what_the_earlier_left(task: UnlearnData) -> None:
    model, seen = shared_model("gpt2"), []

    def method(view: HookedModel, data: UnlearnData) -> Intervention:
        seen.append(view.logits(task.forget[0].prompt).detach())
        return selective_pruning(view, data, top=0.05)

    made = sequentially(model, [task, task], method)
    with torch.no_grad(), made.parts[0].applied(model) as view:
        assert torch.equal(seen[1], view.logits(task.forget[0].prompt))
    assert torch.equal(seen[0], model.logits(task.forget[0].prompt))
    assert not torch.equal(*seen)


def test_one_request_is_the_method_itself(task: UnlearnData) -> None:
    model = shared_model("gpt2")
    alone, listed = npo(model, task, **FAST), sequentially(model, [task], npo, **FAST)
    assert listed.spec == alone.spec
    assert not listed.parts


def test_errors_say_which_request() -> None:
    model, good = (
        shared_model("gpt2"),
        UnlearnData(make_items(2, low=3, high=40, seed=1), make_items(3, low=40, high=99, seed=2)),
    )
    with pytest.raises(VestigeError, match="needs at least one request"):
        sequentially(model, [], npo)
    with pytest.raises(VestigeError, match=r"takes a list of UnlearnData, got a bare one; write \[data\]"):
        sequentially(model, good, npo)  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match="request 2 of 2: its 2 retain items are all among what earlier requests"):
        sequentially(model, [good, UnlearnData(good.retain, good.forget)], npo, steps=1)
    with pytest.raises(VestigeError, match="request 2 of 2: npo with retain_weight=1 needs retain items"):
        sequentially(model, [good, UnlearnData(good.forget)], npo, steps=1)
