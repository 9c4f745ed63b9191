"""Fact erasure: the probability itself is descended, at a depth that decides what stays readable."""

from __future__ import annotations

from math import exp

import pytest
import torch
from torch.autograd import gradcheck

from hooked import HookedModel, Intervention, UnlearnData
from interventions.erasure import (
    fact_erasure,
    fact_erasure_loss,
)
from interventions.training.losses import AnswerNLL, answer_nll
from tests.contracts import InterventionContract
from tests.interventions.erasure.defences import FAST, leaked
from tests.interventions.training.knowing import probability
from tests.interventions.training.test_losses import CURRENT, ORIGINAL, TO_6_DIGITS, nll_of


class TestFactErasure(InterventionContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return fact_erasure(model, data, **FAST)


class TestFactErasureWithoutNeutralText(InterventionContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return fact_erasure(model, data, kl_weight=0.0, layer=-1, max_change=1e-2, **FAST)


def test_the_loss_is_the_probability_itself() -> None:
    assert fact_erasure_loss(nll_of(CURRENT)).item() == pytest.approx(0.260324, abs=TO_6_DIGITS)
    assert fact_erasure_loss(nll_of(ORIGINAL)).item() == pytest.approx(0.462646, abs=TO_6_DIGITS)
    two = AnswerNLL(torch.tensor([4.0, 1.0]).double(), torch.tensor([2, 1]))
    assert fact_erasure_loss(two).item() == pytest.approx((exp(-2) + exp(-1)) / 2, rel=1e-12)


def test_its_gradient_fades_at_both_ends(rng: torch.Generator) -> None:
    logits = torch.randn(3, 4, generator=rng, dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda a: fact_erasure_loss(nll_of(a)), (logits,))
    ids, answer = torch.tensor([[0, 1]]), torch.tensor([[False, True]])
    for gap in (-30.0, -1.0, 0.0, 2.0, 30.0):
        two = torch.tensor([[[0.0, gap], [0.0, 0.0]]], dtype=torch.float64, requires_grad=True)
        loss = fact_erasure_loss(answer_nll(two, ids, answer))
        (grad,) = torch.autograd.grad(loss, [two])
        p = 1 / (1 + exp(-gap))
        assert grad[0, 0].tolist() == pytest.approx([-p * (1 - p), p * (1 - p)], abs=1e-12)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_probability_falls_and_the_depth_of_the_edit_decides_what_the_lens_shows(
    seed: int, knowing: HookedModel, task: UnlearnData
) -> None:
    assert leaked(knowing, task.forget) == [1.0, 1.0, 1.0]
    found = {}
    for layer in (0, 2):
        made = fact_erasure(knowing, task, layer=layer, lr=1e-2, epochs=30, batch_size=6, seed=seed)
        with made.applied(knowing) as view:
            assert probability(view, task.forget) < 0.75
            assert probability(view, task.retain) > 0.95
            found[layer] = leaked(view, task.forget)
    # A block before the edited one reads as it did.
    assert found[2][:2] == [1.0, 1.0]
    assert max(found[0]) < 0.7


def test_the_first_loss_is_the_probability_where_the_model_was(knowing: HookedModel, task: UnlearnData) -> None:
    made = fact_erasure(knowing, task, steps=1, batch_size=6)
    assert made.spec.settings["first_loss"] == pytest.approx(probability(knowing, task.forget), rel=1e-5)


def test_it_stops_where_enough_is_forgotten(knowing: HookedModel, task: UnlearnData) -> None:
    made = fact_erasure(knowing, task, layer=0, lr=1e-2, epochs=40, batch_size=6, stop_fraction=0.5)
    assert made.spec.settings["steps_taken"] < 40
    assert made.spec.settings["forget_probability"] < 0.5
