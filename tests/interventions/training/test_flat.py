from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from interventions.training.flat import Divergence, flat, flat_loss, mean_token_probability
from tests.contracts import LossContract
from tests.interventions.training.knowing import probability
from tests.interventions.training.test_losses import CURRENT, ORIGINAL, one_row, padded
from tests.tiny import shared_model

FAST: dict[str, Any] = {"lr": 3e-3, "steps": 3, "progress": False}
REFUSALS = ("t5 t6", "t7 t8 t9")
DIVERGENCES: tuple[Divergence, ...] = get_args(Divergence)
# At x = .3, y = .6, and at 0, 0.
VALUES = {
    "kl": (0.370320, math.exp(-1)),
    "total_variation": (0.122868, 0.0),
    "jensen_shannon": (0.205549, 0.0),
    "pearson": (0.390000, 0.0),
    "jeffrey": (0.403500, 0.0),
    "reverse_kl_corrected": (0.340818, 0.0),
    "squared_hellinger_corrected": (0.562937, 0.0),
    "neyman_corrected": (0.259182, 0.0),
}
AS_RELEASED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "reverse_kl": lambda x, y: torch.exp(x) - 1 - y,
    "squared_hellinger": lambda x, y: torch.exp(x) + torch.exp(-y) - 2,
    "neyman": lambda x, y: torch.exp(x) + 1 - 2 * torch.sqrt(1 - y),
}


class TestFLAT(LossContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return flat(model, data, refusals=REFUSALS, **FAST)


def grid() -> tuple[Tensor, Tensor]:
    """Every pair of probabilities in steps of 0.02, without 0 and 1."""
    ticks = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)
    x, y = torch.meshgrid(ticks, ticks, indexing="ij")
    return x.clone().requires_grad_(), y.clone().requires_grad_()


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_reference_values(divergence: Divergence) -> None:
    for (x, y), value in zip(((0.3, 0.6), (0.0, 0.0)), VALUES[divergence], strict=True):
        p_e, p_f = torch.tensor([x], dtype=torch.float64), torch.tensor([y], dtype=torch.float64)
        assert flat_loss(p_e, p_f, divergence=divergence).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_the_refusal_is_always_raised_and_the_answer_always_lowered(divergence: Divergence) -> None:
    x, y = grid()
    flat_loss(x.flatten(), y.flatten(), divergence=divergence).backward()
    assert x.grad is not None
    assert y.grad is not None
    assert (x.grad < 0).all()
    assert (y.grad > 0).all()


@pytest.mark.parametrize(("name", "value"), [("reverse_kl", -0.250141), ("squared_hellinger", -0.101330)])
def test_two_released_losses_have_both_signs_wrong(name: str, value: float) -> None:
    x, y = grid()
    AS_RELEASED[name](x, y).mean().backward()
    assert x.grad is not None
    assert y.grad is not None
    assert (x.grad > 0).all()
    assert (y.grad < 0).all()
    assert AS_RELEASED[name](torch.tensor(0.3), torch.tensor(0.6)).item() == pytest.approx(value, abs=1e-6)


def test_the_released_neyman_loss_lowers_the_refusal_too() -> None:
    x, y = grid()
    AS_RELEASED["neyman"](x, y).mean().backward()
    assert x.grad is not None
    assert y.grad is not None
    assert (x.grad > 0).all()
    assert (y.grad > 0).all()
    assert AS_RELEASED["neyman"](torch.tensor(0.3), torch.tensor(0.6)).item() == pytest.approx(1.084948, abs=1e-6)


@pytest.mark.parametrize("name", AS_RELEASED)
def test_what_is_wrong_as_released_is_refused_with_the_reason(name: Any, task: UnlearnData) -> None:
    half = torch.tensor([0.5])
    with pytest.raises(VestigeError, match=f"'{name}' as released has a wrong sign: .*take '{name}_corrected'"):
        flat_loss(half, half, divergence=name)
    with pytest.raises(VestigeError, match="makes the refusal less likely"):
        flat(shared_model("gpt2"), task, divergence=name)
    with pytest.raises(VestigeError, match=r"divergence is one of kl, total_variation, .*, got 'hinge'"):
        flat_loss(half, half, divergence="hinge")  # type: ignore[arg-type]


def test_probabilities_are_averaged_and_not_their_logarithms() -> None:
    for logits, value in ((CURRENT, 0.334502), (ORIGINAL, 0.519004)):
        assert mean_token_probability(*one_row(logits)).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gradients_are_those_of_finite_differences(divergence: Divergence) -> None:
    def loss(refusal: Tensor, answer: Tensor) -> Tensor:
        p_e, p_f = mean_token_probability(*one_row(refusal)), mean_token_probability(*one_row(answer))
        return flat_loss(p_e, p_f, divergence=divergence)

    for start in (CURRENT, torch.zeros_like(CURRENT)):
        assert gradcheck(loss, (ORIGINAL.clone().requires_grad_(), start.clone().requires_grad_()))


def test_padding_and_other_rows_do_not_shrink_a_probability(rng: torch.Generator) -> None:
    logits = torch.randn(2, 5, 6, generator=rng, dtype=torch.float64)
    ids = torch.randint(6, (2, 5), generator=rng)
    answer = torch.tensor([[False, False, True, True, True], [False, True, False, False, False]])
    wanted = mean_token_probability(logits, ids, answer)
    for side in ("left", "right"):
        wide = mean_token_probability(*padded(logits, ids, answer, side=side, extra=7))
        torch.testing.assert_close(wide, wanted)
    for row in range(2):
        alone = mean_token_probability(logits[row : row + 1], ids[row : row + 1], answer[row : row + 1])
        torch.testing.assert_close(alone[0], wanted[row])
    last = logits[1, 0].softmax(-1)[ids[1, 1]]
    torch.testing.assert_close(wanted[1], last)
    with pytest.raises(VestigeError, match="each answer needs one refusal, got 1 refusals for 2 answers"):
        flat_loss(wanted[:1], wanted)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_forget_data_alone_forget_but_cost_the_rest(seed: int, knowing: HookedModel, task: UnlearnData) -> None:
    same: dict[str, Any] = {"refusals": REFUSALS[:1], "lr": 3e-3, "epochs": 40, "batch_size": 3, "seed": seed}
    made = flat(knowing, task, **same)
    alone = flat(knowing, replace(task, retain=()), **same)
    assert made.weights is not None
    assert alone.weights is not None
    assert made.weights.norms() == alone.weights.norms()
    assert -0.5 < made.spec.settings["last_loss"] < made.spec.settings["first_loss"] < 0.5
    with made.applied(knowing) as view:
        assert probability(view, task.forget) < 0.05
        assert 0.3 < probability(view, task.retain) < 0.9


def test_documents_and_questions_without_an_answer_are_left_out(task: UnlearnData) -> None:
    model = shared_model("gpt2")
    mixed = (replace(task.forget[0], prompt=""), replace(task.forget[1], answer=""), *task.forget[2:])
    some = flat(model, replace(task, forget=mixed), refusals=REFUSALS, steps=2)
    same = flat(model, replace(task, forget=task.forget[2:]), refusals=REFUSALS, steps=2)
    assert some.weights is not None
    assert same.weights is not None
    assert some.weights.norms() == same.weights.norms()
    documents = tuple(replace(item, prompt="") for item in task.forget)
    with pytest.raises(VestigeError, match="flat needs forget items with a prompt to refuse"):
        flat(model, replace(task, forget=documents))
    with pytest.raises(VestigeError, match="flat needs refusals of at least one word each"):
        flat(model, task, refusals=())
