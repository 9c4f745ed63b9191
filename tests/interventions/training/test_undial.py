from __future__ import annotations

from dataclasses import replace
from math import exp, log
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from interventions.training.losses import answer_logits
from interventions.training.undial import logit_gap, undial, undial_loss
from tests.contracts import LossContract
from tests.interventions.training.knowing import probability
from tests.interventions.training.test_losses import CURRENT, ORIGINAL, TARGETS, gradient, one_row, padded
from tests.tiny import shared_model

FAST: dict[str, Any] = {"lr": 3e-3, "steps": 3, "progress": False}


class TestUNDIAL(LossContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return undial(model, data, **FAST)


class TestUNDIALByItself(LossContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return undial(model, data, beta="auto", retain_weight=0.0, **FAST)


def undial_of(logits: Tensor, reference: Tensor = ORIGINAL, **settings: Any) -> Tensor:
    student, ids, answer = one_row(logits)
    return undial_loss(student, one_row(reference)[0], ids, answer, **settings)


def entropy(logits: Tensor) -> float:
    return float(-(logits.softmax(-1) * logits.log_softmax(-1)).sum(-1).mean())


def lowered(logits: Tensor, beta: float) -> Tensor:
    result = logits.clone()
    result[range(3), list(TARGETS)] -= beta
    return result


def test_reference_values() -> None:
    assert undial_of(CURRENT, beta=1.0).item() == pytest.approx(1.001970, abs=1e-6)
    assert undial_of(CURRENT).item() == pytest.approx(1.244550, abs=1e-6)
    assert undial_of(lowered(ORIGINAL, 10.0)).item() == pytest.approx(0.766702, abs=1e-6)


def test_the_best_student_is_the_lowered_teacher() -> None:
    assert torch.equal(CURRENT, lowered(ORIGINAL, 1.0))
    assert undial_of(CURRENT, beta=1.0).item() == pytest.approx(entropy(CURRENT), abs=1e-12)
    assert gradient(lambda a: undial_of(a, beta=1.0), CURRENT).abs().max() < 1e-12
    assert gradient(lambda a: undial_of(a, beta=1.1), CURRENT).abs().max() > 1e-3


@pytest.mark.parametrize("settings", [{}, {"beta": 1.0}, {"beta": 0.0}, {"beta": "auto"}])
def test_gradients_shifts_and_the_reference(settings: dict[str, Any]) -> None:
    logits, reference = CURRENT.clone().requires_grad_(), ORIGINAL.clone().requires_grad_()
    assert gradcheck(lambda a: undial_of(a, **settings), (logits,))
    undial_of(logits, reference, **settings).backward()
    assert reference.grad is None
    shift = torch.tensor([[3.0], [-7.0], [40.0]], dtype=torch.float64)
    wanted = undial_of(CURRENT, **settings)
    torch.testing.assert_close(undial_of(CURRENT + shift, **settings), wanted)
    torch.testing.assert_close(undial_of(CURRENT, ORIGINAL - shift, **settings), wanted)


@pytest.mark.parametrize(
    ("p", "left", "survives"),
    [(0.9, 0.0004, False), (0.9999, 0.312, False), (0.99999, 0.819, True), (0.999999, 0.978, True)],
)
def test_what_is_nearly_certain_survives_a_fixed_beta(p: float, left: float, survives: bool) -> None:
    teacher = torch.tensor([[log(p / (1 - p)), 0.0]], dtype=torch.float64)
    best = (teacher - torch.tensor([[10.0, 0.0]])).requires_grad_()
    ids, answer = torch.tensor([[0, 0]]), torch.tensor([[False, True]])
    student, original = (torch.stack([x, x], 1) for x in (best, teacher))
    grad = torch.autograd.grad(undial_loss(student, original, ids, answer), best)[0]
    assert grad.abs().max() < 1e-12
    assert best.softmax(-1)[0, 0].item() == pytest.approx(left, abs=5e-4)
    assert best.softmax(-1)[0, 0].item() == pytest.approx(p * exp(-10) / (p * exp(-10) + 1 - p), rel=1e-9)
    assert (logit_gap(teacher, torch.tensor([0])).item() > 10) == survives


def test_auto_ends_a_margin_below_the_best_other_token() -> None:
    assert logit_gap(ORIGINAL, torch.tensor(TARGETS)).tolist() == [2, -1, 1]
    best = ORIGINAL.clone()
    best[0, 0], best[1, 1], best[2, 3] = 1 - 3, 3 - 3, 1 - 3
    assert undial_of(best, beta="auto", margin=3.0).item() == pytest.approx(entropy(best), abs=1e-12)
    assert gradient(lambda a: undial_of(a, beta="auto", margin=3.0), best).abs().max() < 1e-12
    # The second token is 1 below the best already: a margin of 0.5 does not raise it.
    kept = ORIGINAL.clone()
    kept[0, 0], kept[2, 3] = 0.5, 0.5
    assert gradient(lambda a: undial_of(a, beta="auto", margin=0.5), kept).abs().max() < 1e-12


def test_prompt_and_padding_are_left_out(rng: torch.Generator) -> None:
    logits, reference = torch.randn(2, 2, 5, 6, generator=rng, dtype=torch.float64)
    ids = torch.randint(6, (2, 5), generator=rng)
    answer = torch.tensor([[False, False, True, True, True], [False, True, False, False, False]])
    wanted = undial_loss(logits, reference, ids, answer)
    for side in ("left", "right"):
        wide, wide_ids, wide_answer = padded(logits, ids, answer, side=side, extra=7)
        wide_reference = padded(reference, ids, answer, side=side, extra=7)[0]
        torch.testing.assert_close(undial_loss(wide, wide_reference, wide_ids, wide_answer), wanted)
    elsewhere = logits.clone()
    elsewhere[1, 1:] = 50
    torch.testing.assert_close(undial_loss(elsewhere, reference, ids, answer), wanted)
    with pytest.raises(VestigeError, match=r"answer token ids must be in 0..5, got -100"):
        undial_loss(logits, reference, ids.masked_fill(answer, -100), answer)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_runner_up_is_said_and_auto_reaches_what_a_fixed_beta_leaves(
    seed: int, knowing: HookedModel, task: UnlearnData
) -> None:
    same: dict[str, Any] = {"lr": 2e-3, "epochs": 20, "batch_size": 3, "seed": seed}
    with pytest.warns(UserWarning, match=r"undial with beta=4 leaves \d+ of \d+ answer tokens on top.*beta='auto'"):
        weak = undial(knowing, task, beta=4.0, **same)
    enough = undial(knowing, task, beta="auto", **same)
    assert enough.spec.settings["largest_gap"] > 4
    with weak.applied(knowing) as view:
        survived = probability(view, task.forget)
    with enough.applied(knowing) as view:
        assert probability(view, task.forget) < 0.1 < survived
        kept = probability(view, task.retain)
        assert kept > 0.9
        batch = view.tokenize([i.prompt for i in task.forget], answers=[i.answer for i in task.forget])
        with torch.no_grad():
            chosen, answers = answer_logits(view.logits(batch), batch.ids, batch.answer)
            before, _ = answer_logits(knowing.logits(batch), batch.ids, batch.answer)
    alone = undial(knowing, task, beta="auto", retain_weight=0.0, **same)
    with alone.applied(knowing) as view:
        # The retain term mends more than half of what is lost without it.
        assert 1 - kept < 0.5 * (1 - probability(view, task.retain))
    runner_up = before.scatter(-1, answers[:, None], -torch.inf).argmax(-1)
    assert (logit_gap(chosen, answers) < 0).float().mean() > 0.8
    assert (chosen.argmax(-1) == runner_up).float().mean() > 0.5


def test_needs_follow_the_settings_and_wrong_ones_are_named(task: UnlearnData) -> None:
    model = shared_model("gpt2")
    made = undial(model, replace(task, retain=()), beta="auto", margin=2.0, retain_weight=0.0, steps=1)
    assert made.spec.needs == ("forget", "reference")
    assert made.spec.settings["margin"] == 2
    for beta in (-1.0, "car"):
        with pytest.raises(VestigeError, match=f"beta is a finite number of at least 0 or 'auto', got '?{beta}"):
            undial(model, task, beta=beta)  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match="margin is a finite number above 0, got 0"):
        undial(model, task, beta="auto", margin=0.0)
    with pytest.raises(VestigeError, match="undial with retain_weight=1 needs retain items"):
        undial(model, replace(task, retain=()))
