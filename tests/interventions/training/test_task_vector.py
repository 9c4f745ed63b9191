from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from hooked import HookedModel, Intervention, LowRankDelta, UnlearnData, VestigeError
from hooked.weights import parameters_of, values_of
from interventions.training.descent import forget_nll
from interventions.training.losses import cross_entropy
from interventions.training.task_vector import task_vector
from interventions.training.train import train
from tests.contracts import InterventionContract
from tests.interventions.training.knowing import probability
from tests.tiny import shared_model, tiny_model

FAST: dict[str, Any] = {"lr": 3e-3, "steps": 3, "progress": False}


class TestTaskVector(InterventionContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return task_vector(model, data, **FAST)


class TestLowRankTaskVector(InterventionContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return task_vector(model, data, lora=2, alpha=2.0, **FAST)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("alpha", [1.0, 2.5])
def test_every_parameter_moves_away_from_the_fine_tuned_one_once(family: str, alpha: float, task: UnlearnData) -> None:
    """Both families tie their embeddings: counted under both names, they would move twice as far."""
    tied: dict[str, Any] = {"tie_word_embeddings": True} if family == "llama" else {}
    model = tiny_model(family, dtype=torch.float64, **tied)
    tuned = train(model, replace(task, retain=()), lambda m, b: cross_entropy(forget_nll(m, b)), steps=4, lr=1e-2)
    before = {name: p.detach().clone() for name, p in parameters_of(model.model).items()}
    made = task_vector(model, task, alpha=alpha, steps=4, lr=1e-2)
    with Intervention(made.spec, weights=tuned.patch).applied(model):
        after = {name: p.detach().clone() for name, p in parameters_of(model.model).items()}
    with made.applied(model):
        for name, parameter in parameters_of(model.model).items():
            wanted = before[name] - alpha * (after[name] - before[name])
            torch.testing.assert_close(parameter.detach(), wanted, rtol=0, atol=1e-12)
    assert made.weights is not None
    distinct = {id(parameter) for parameter in model.model.parameters()}
    assert len(distinct) < len(parameters_of(model.model))
    assert len(made.weights.deltas) == len(distinct) == len(made.spec.settings["subtracted"])


def test_alpha_0_is_bit_equal(task: UnlearnData) -> None:
    model = tiny_model("llama")
    before = {name: tensor.clone() for name, tensor in model.state().items()}
    made = task_vector(model, task, alpha=0.0, steps=2)
    assert made.weights is not None
    assert not made.weights.deltas
    with made.applied(model):
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state().items())


def test_a_zero_vector_is_refused(task: UnlearnData) -> None:
    model = shared_model("llama")
    with pytest.raises(VestigeError, match="the task vector is zero: fine-tuning changed no parameter"):
        task_vector(model, task, steps=0)
    with pytest.raises(VestigeError, match="the task vector is zero"):
        task_vector(model, task, steps=0, lora=2)
    with pytest.raises(VestigeError, match="changed no parameter outside exclude="):
        task_vector(model, task, steps=1, exclude=["*"])


def test_what_is_excluded_keeps_its_bits_and_is_recorded(task: UnlearnData) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    whole = task_vector(model, task, steps=2)
    part = task_vector(model, task, steps=2, exclude=["*norm*", "lm_head.*"])
    assert whole.weights is not None
    assert part.weights is not None
    assert whole.spec.settings["excluded"] == []
    left_out, moved = set(part.spec.settings["excluded"]), set(part.spec.settings["subtracted"])
    assert left_out | moved == set(whole.weights.deltas)
    # The embedding is tied to the head, and excluded under that name.
    assert left_out == {name for name in whole.weights.deltas if "norm" in name or "embed" in name}
    assert set(part.weights.deltas) == moved
    for name, delta in part.weights.deltas.items():
        assert torch.equal(values_of(delta), values_of(whole.weights.deltas[name]))
    with pytest.raises(VestigeError, match=r"exclude='\*wte\*' fits no parameter; one is 'model.embed_tokens.weight'"):
        task_vector(model, task, exclude=["*wte*"])
    with pytest.raises(VestigeError, match=r"exclude is a list of patterns, got the text '\*norm\*'"):
        task_vector(model, task, exclude="*norm*")


def test_an_adapter_stays_low_rank(task: UnlearnData) -> None:
    made = task_vector(shared_model("llama"), task, lora=2, steps=2, alpha=3.0)
    once = task_vector(shared_model("llama"), task, lora=2, steps=2)
    assert made.weights is not None
    assert once.weights is not None
    for name, delta in made.weights.deltas.items():
        assert isinstance(delta, LowRankDelta)
        torch.testing.assert_close(values_of(delta), 3 * values_of(once.weights.deltas[name]))


def test_retain_items_are_not_looked_at(task: UnlearnData) -> None:
    model = shared_model("llama")
    with_them, without = (task_vector(model, data, steps=2) for data in (task, replace(task, retain=())))
    assert with_them.weights is not None
    assert without.weights is not None
    assert with_them.weights.norms() == without.weights.norms()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_larger_alpha_forgets_more_and_keeps_less(seed: int, knowing: HookedModel, task: UnlearnData) -> None:
    forget, retain = [], []
    for alpha in (0.0, 2.0, 5.0, 15.0):
        made = task_vector(knowing, task, alpha=alpha, lr=2e-3, epochs=10, batch_size=3, seed=seed)
        with made.applied(knowing) as view:
            forget.append(probability(view, task.forget))
            retain.append(probability(view, task.retain))
    assert forget == sorted(forget, reverse=True)
    assert retain == sorted(retain, reverse=True)
    assert forget[0] > 0.9
    assert forget[-1] < 0.2
    assert forget[-1] < retain[-1]


def test_settings_that_do_not_apply_are_named(task: UnlearnData) -> None:
    model = shared_model("gpt2")
    for alpha in (-1.0, float("nan")):
        with pytest.raises(VestigeError, match=f"alpha is a finite number of at least 0, got {alpha}"):
            task_vector(model, task, alpha=alpha)
    with pytest.raises(VestigeError, match="so stop_fraction cannot stop it; sweep alpha instead"):
        task_vector(model, task, stop_fraction=0.1)
    with pytest.raises(VestigeError, match="so retain_bound cannot stop it"):
        task_vector(model, task, retain_bound=3.0)
