from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from interventions.training.gradient_ascent import gradient_ascent
from interventions.training.losses import answer_token_nll, cross_entropy
from interventions.training.wga import wga, wga_loss
from tests.contracts import LossContract
from tests.interventions.training.knowing import probability
from tests.interventions.training.test_losses import CURRENT, gradient, nll_of, one_row, padded
from tests.tiny import shared_model

FAST: dict[str, Any] = {"lr": 3e-3, "steps": 3, "progress": False}


class TestWGA(LossContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return wga(model, data, **FAST)


def wga_of(logits: Tensor, *, beta: float = 1.0) -> Tensor:
    return wga_loss(*one_row(logits), beta=beta)


def test_reference_values() -> None:
    assert wga_of(CURRENT).item() == pytest.approx(-0.290775, abs=1e-6)
    assert wga_of(CURRENT, beta=2.0).item() == pytest.approx(-0.098571, abs=1e-6)
    assert wga_of(CURRENT, beta=0.0).item() == pytest.approx(-1.345827, abs=1e-6)


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0])
def test_the_weight_carries_no_gradient(beta: float) -> None:
    weight = torch.exp(-beta * answer_token_nll(*one_row(CURRENT)))

    def held(logits: Tensor) -> Tensor:
        return -(weight * answer_token_nll(*one_row(logits))).mean()

    assert gradcheck(held, (CURRENT.clone().requires_grad_(),))
    torch.testing.assert_close(gradient(lambda a: wga_of(a, beta=beta), CURRENT), gradient(held, CURRENT))


def test_an_unlikely_token_has_no_pull_left() -> None:
    gone = CURRENT.clone()
    gone[0, 0] -= 60
    grad = gradient(wga_of, gone)
    assert grad[0].abs().max() < 1e-20
    assert grad[1].abs().max() > 0.01
    assert gradient(lambda a: wga_of(a, beta=0.0), gone)[0].abs().max() > 0.2


def test_shifts_and_padding_change_nothing(rng: torch.Generator) -> None:
    shift = torch.tensor([[3.0], [-7.0], [40.0]], dtype=torch.float64)
    torch.testing.assert_close(wga_of(CURRENT + shift), wga_of(CURRENT))
    logits = torch.randn(2, 5, 6, generator=rng, dtype=torch.float64)
    ids = torch.randint(6, (2, 5), generator=rng)
    answer = torch.tensor([[False, False, True, True, True], [False, True, False, False, False]])
    wanted = wga_loss(logits, ids, answer)
    for side in ("left", "right"):
        torch.testing.assert_close(wga_loss(*padded(logits, ids, answer, side=side, extra=7)), wanted)
    tokens = answer_token_nll(logits, ids, answer)
    assert wanted.item() == pytest.approx(-(torch.exp(-tokens) * tokens).sum().item() / 4)


def test_token_scores_are_what_rows_add_up() -> None:
    tokens = answer_token_nll(*one_row(CURRENT))
    assert tokens.tolist() == pytest.approx([0.440190, 2.210998, 1.386294], abs=1e-6)
    assert tokens.mean().item() == pytest.approx(cross_entropy(nll_of(CURRENT)).item())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_ruins_less_than_gradient_ascent(seed: int, knowing: HookedModel, task: UnlearnData) -> None:
    same: dict[str, Any] = {"lr": 3e-3, "epochs": 30, "batch_size": 6, "seed": seed, "retain_bound": 100.0}
    bare = wga(knowing, task, retain_weight=0.0, **same)
    control = gradient_ascent(knowing, task, stop_fraction=None, **same)
    kept = []
    for made in (control, bare, wga(knowing, task, **same)):
        with made.applied(knowing) as view:
            assert probability(view, task.forget) < 0.02
            kept.append(probability(view, task.retain))
    assert kept[0] < kept[1] < kept[2]
    assert kept[2] > 0.95
    assert -1 / math.e - 0.01 < bare.spec.settings["last_loss"] < 0


def test_needs_follow_the_settings_and_wrong_ones_are_named(task: UnlearnData) -> None:
    model = shared_model("gpt2")
    assert wga(model, replace(task, retain=()), retain_weight=0.0, steps=1).spec.needs == ("forget",)
    with pytest.raises(VestigeError, match="beta is a finite number of at least 0, got -1"):
        wga(model, task, beta=-1.0)
    with pytest.raises(VestigeError, match="retain_weight is a finite number of at least 0, got nan"):
        wga(model, task, retain_weight=float("nan"))
    with pytest.raises(VestigeError, match="wga with retain_weight=1 needs retain items"):
        wga(model, replace(task, retain=()))
