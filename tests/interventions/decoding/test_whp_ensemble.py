"""WHP as an ensemble: its reference values, what it lowers and what it does not, and that a saga is forgotten."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from hooked.truncated import truncated
from interventions.decoding import Assistant, LogitCombiner, whp_ensemble
from tests.contracts import InterventionContract, assert_close
from tests.interventions.decoding.made import applied_logits, task_of, taught
from tests.interventions.training.knowing import probability
from tests.tiny import random_ids, shared_model, tiny_model

FAST: dict[str, Any] = {"steps": 3, "progress": False}


class TestWHPEnsemble(InterventionContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return whp_ensemble(model, data, **FAST)


def test_reference_values(monkeypatch: pytest.MonkeyPatch) -> None:
    """b = (2, 1, 0), r = (3, 0, 0), alpha = 5 gives g = (-3, 1, 0), whose winner is token 1."""
    from hooked import Request
    from interventions.decoding import combiner as module
    from interventions.decoding.beside import Beside

    monkeypatch.setattr(Beside, "__init__", lambda self, described, target: setattr(self, "model", target))
    reinforced = torch.tensor([[[3.0, 0.0, 0.0]]])
    monkeypatch.setattr(Beside, "run", lambda self, request, layers: (reinforced, request))
    edit = module.LogitCombiner((module.Term(1.0, "logits"), module.Term(-5.0, "excess", 1)), (Assistant(),)).bind(
        shared_model("gpt2")
    )
    true = torch.ones(1, 1, dtype=torch.bool)
    got = edit(torch.tensor([[[2.0, 1.0, 0.0]]]), Request(true, true, true, 0, torch.zeros(1, 1, dtype=torch.long)))
    assert got.tolist() == [[[-3.0, 1.0, 0.0]]]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_only_tokens_of_which_the_copy_is_surer_are_lowered(
    family: str, tiny_data: UnlearnData, rng: torch.Generator
) -> None:
    model, ids = tiny_model(family, dtype=torch.float64), random_ids(rng)
    made = whp_ensemble(model, tiny_data, alpha=5.0, lr=1e-2, **FAST)
    combiner = made.logits
    assert isinstance(combiner, LogitCombiner)
    copy = combiner.others[0]
    assert isinstance(copy, Assistant)
    with torch.no_grad():
        b, r = model.logits(ids), truncated(model, patch=copy.weights).logits(ids)
    got = applied_logits(made, model, ids)
    assert_close(got, b - 5 * torch.relu(r - b))
    assert torch.equal(got == b, r <= b)
    assert 0 < (r <= b).sum() < r.numel()


def test_alpha_0_is_the_model_bit_by_bit(tiny_data: UnlearnData, rng: torch.Generator) -> None:
    model, ids = shared_model("llama"), random_ids(rng)
    made = whp_ensemble(model, tiny_data, alpha=0.0, **FAST)
    assert torch.equal(applied_logits(made, model, ids), model.logits(ids))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_the_copy_studied_again_is_said_less_and_the_rest_as_before(seed: int) -> None:
    data = task_of(seed)
    with taught(data.forget + data.retain, seed=seed, epochs=9) as model:
        known, kept = probability(model, data.forget), probability(model, data.retain)
        assert known > 0.9
        made = whp_ensemble(model, data, alpha=5.0, epochs=15, batch_size=6, lr=1e-2, progress=False)
        with made.applied(model) as view:
            assert probability(view, data.forget) < 0.5
            assert probability(view, data.retain) > kept - 0.02
            assert probability(view.raw, data.forget) == known


def test_a_negative_alpha_is_refused(tiny_data: UnlearnData) -> None:
    with pytest.raises(VestigeError, match="alpha is at least 0, got -1"):
        whp_ensemble(shared_model("gpt2"), tiny_data, alpha=-1)
    for alpha in (float("nan"), float("inf")):
        with pytest.raises(VestigeError, match=f"alpha is a finite number, got {alpha}"):
            whp_ensemble(shared_model("gpt2"), tiny_data, alpha=alpha)
