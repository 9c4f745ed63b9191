from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from interventions.training.gradient_ascent import gradient_ascent, gradient_ascent_loss
from interventions.training.losses import AnswerNLL
from interventions.training.simnpo import simnpo, simnpo_loss
from tests.contracts import LossContract
from tests.interventions.training.knowing import probability
from tests.interventions.training.test_losses import CURRENT, ORIGINAL, gradient, nll_of
from tests.tiny import shared_model

FAST: dict[str, Any] = {"lr": 3e-3, "steps": 3, "progress": False}


class TestSimNPO(LossContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return simnpo(model, data, **FAST)


@pytest.mark.parametrize(("beta", "delta", "value"), [(4.5, 0.0, 0.001040), (4.5, 1.0, 0.085062), (2.5, 0.0, 0.027194)])
def test_reference_values(beta: float, delta: float, value: float) -> None:
    assert simnpo_loss(nll_of(CURRENT), beta=beta, delta=delta).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("delta", [0.0, 1.0])
def test_it_is_gradient_ascent_on_means_with_a_weight(delta: float) -> None:
    for at in (CURRENT, ORIGINAL, torch.zeros_like(CURRENT)):
        assert gradcheck(lambda a: simnpo_loss(nll_of(a), delta=delta), (at.clone().requires_grad_(),))
        weight = 2 * torch.sigmoid(-4.5 * (nll_of(at).mean - delta))
        ascent = gradient(lambda a: gradient_ascent_loss(nll_of(a)), at)
        torch.testing.assert_close(gradient(lambda a: simnpo_loss(nll_of(a), delta=delta), at), weight * ascent)


def test_a_constant_added_to_a_position_changes_nothing() -> None:
    shift = torch.tensor([[3.0], [-7.0], [40.0]], dtype=torch.float64)
    torch.testing.assert_close(simnpo_loss(nll_of(CURRENT + shift)), simnpo_loss(nll_of(CURRENT)))


def test_length_does_not_matter() -> None:
    """Forty tokens at 0.5 nats each are as far as one."""
    total = torch.tensor([20.0, 0.5], requires_grad=True)
    simnpo_loss(AnswerNLL(total, torch.tensor([40, 1]))).backward()
    assert total.grad is not None
    assert (40 * total.grad[0]).item() == pytest.approx(total.grad[1].item())


def test_an_answer_that_was_never_known_is_let_alone() -> None:
    unknown, known = (AnswerNLL(torch.tensor([x], requires_grad=True), torch.tensor([1])) for x in (2.0, 0.01))
    for nll in (unknown, known):
        simnpo_loss(nll).backward()
    assert unknown.total.grad is not None
    assert known.total.grad is not None
    assert unknown.total.grad.abs() < 1e-3
    assert known.total.grad.abs() > 0.9


def test_gamma_weighs_forgetting_and_is_no_margin(knowing: HookedModel, task: UnlearnData) -> None:
    once: dict[str, Any] = {"steps": 1, "batch_size": 12, "retain_weight": 0.0}
    half, whole = (simnpo(knowing, task, forget_weight=w, **once).spec.settings["first_loss"] for w in (0.5, 1.0))
    assert half == pytest.approx(whole / 2, rel=1e-6)
    retained = simnpo(knowing, task, forget_weight=0.0, **{**once, "retain_weight": 1.0}).spec.settings["first_loss"]
    assert retained < 0.01 < whole


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_forgetting_stops_where_asked_and_the_rest_stays(seed: int, knowing: HookedModel, task: UnlearnData) -> None:
    same: dict[str, Any] = {"lr": 3e-3, "epochs": 20, "batch_size": 3, "seed": seed}
    made = simnpo(knowing, task, **same)
    with made.applied(knowing) as view:
        assert probability(view, task.forget) < 0.1
        kept = probability(view, task.retain)
    control = gradient_ascent(knowing, task, stop_fraction=None, **same)
    with control.applied(knowing) as view:
        assert probability(view, task.retain) < kept - 0.1
    assert kept > 0.9
    assert control.spec.settings["last_loss"] < -10 < 0 <= made.spec.settings["last_loss"]


def test_needs_follow_the_settings_and_wrong_ones_are_named(task: UnlearnData) -> None:
    model = shared_model("gpt2")
    assert simnpo(model, task, steps=1).spec.needs == ("forget", "retain")
    assert simnpo(model, replace(task, retain=()), retain_weight=0.0, steps=1).spec.needs == ("forget",)
    with pytest.raises(VestigeError, match="beta must be a finite number above 0, got 0"):
        simnpo(model, task, beta=0.0)
    with pytest.raises(VestigeError, match="delta is a finite number of nats per token, got inf"):
        simnpo(model, task, delta=float("inf"))
    with pytest.raises(VestigeError, match="forget_weight is a finite number of at least 0, got -1"):
        simnpo(model, task, forget_weight=-1)
    with pytest.raises(VestigeError, match="simnpo with retain_weight=1 needs retain items"):
        simnpo(model, replace(task, retain=()))
