from __future__ import annotations

from math import sqrt
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck

from hooked import HookedModel, Intervention, LowRankDelta, UnlearnData, VestigeError
from interventions.batches import encode
from interventions.training.activations import residuals
from interventions.training.circuit_breakers import (
    circuit_breakers,
    nudged,
    rerouting_loss,
    retain_share,
    staying_loss,
)
from interventions.training.rmu import control_vector
from tests.contracts import InterventionContract
from tests.interventions.training.knowing import probability
from tests.tiny import shared_model, tiny_model

FAST: dict[str, Any] = {"lr": 3e-3, "steps": 4, "progress": False}


class TestCircuitBreakers(InterventionContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return circuit_breakers(model, data, **FAST)


def row(*values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float64)


def real(*flags: bool) -> torch.Tensor:
    return torch.tensor([flags])


def test_reference_values() -> None:
    one = real(True)
    assert rerouting_loss(row((1, 0)), row((1, 1)), one).item() == pytest.approx(1 / sqrt(2))
    assert rerouting_loss(row((1, 0)), row((-1, 1)), one).item() == 0
    assert rerouting_loss(row((1, 0)), row((5, 0)), one).item() == pytest.approx(1)


def test_a_shift_of_norm_one_costs_one_whatever_the_width_and_padding() -> None:
    """Dividing by a mask that was spread over d_model makes it too small by d_model."""
    before = torch.randn(1, 4, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    after = before + torch.full((16,), 0.25, dtype=torch.float64)
    after[0, 3] = 1e6
    assert staying_loss(after, before, real(True, True, True, False)).item() == pytest.approx(1)


def test_the_first_step_has_no_gradient_and_no_nan() -> None:
    start = row((1, 2), (3, 4))
    now = start.clone().requires_grad_()
    stay = staying_loss(now, start, real(True, True))
    (grad,) = torch.autograd.grad(stay, now)
    assert stay.item() == 0
    assert torch.equal(grad, torch.zeros_like(grad))
    (grad,) = torch.autograd.grad(rerouting_loss(now, start, real(True, True)), now)
    assert grad.abs().max() < 1e-15
    (grad,) = torch.autograd.grad(rerouting_loss(now, nudged(start, row((0, 1))[0, 0]), real(True, True)), now)
    assert (grad.norm(dim=-1) > 1e-3).all()
    torch.testing.assert_close(nudged(start, row((0, 1))[0, 0]), row((1, 2 + 0.1 * sqrt(5)), (3, 4.5)))


def test_gradients(rng: torch.Generator) -> None:
    before = torch.randn(2, 3, 5, generator=rng, dtype=torch.float64)
    now = (before + 0.3 * torch.randn(2, 3, 5, generator=rng, dtype=torch.float64)).requires_grad_()
    mask = torch.tensor([[True, True, False], [True, False, False]])
    for loss in (rerouting_loss, staying_loss):
        assert gradcheck(lambda h, loss=loss: loss(h, before, mask), (now,))
        (grad,) = torch.autograd.grad(loss(now, before, mask), now)
        assert grad[~mask].abs().max() == 0
        assert grad[mask].abs().max() > 0


def test_the_share_of_retaining_rises_to_one() -> None:
    assert [retain_share(step, 300) for step in (0, 75, 150, 300, 900)] == [0, 0.25, 0.5, 1, 1]


def test_the_schedule_follows_the_steps_that_are_taken(tiny_data: UnlearnData) -> None:
    """Two epochs of twelve items in batches of four are six steps; at the last p is 5/12."""
    model = shared_model("llama")
    made = circuit_breakers(model, tiny_data, retain_weight=0.0, alpha=1.0, epochs=2, batch_size=4, lr=1e-12)
    assert made.spec.settings["steps_taken"] == 6
    assert made.spec.settings["first_loss"] == pytest.approx(1, abs=1e-2)
    assert made.spec.settings["last_loss"] == pytest.approx(1 - 5 / 12, abs=1e-2)
    whole = circuit_breakers(model, tiny_data, retain_weight=0.0, alpha=1.0, horizon=1.0, steps=4, lr=1e-12)
    assert whole.spec.settings["last_loss"] == pytest.approx(1 / 4, abs=1e-2)


def test_turning_begins_at_the_first_step(tiny_data: UnlearnData) -> None:
    """In float64 rounding starts nothing this soon."""
    model = tiny_model("llama", dtype=torch.float64)
    made = circuit_breakers(
        model, tiny_data, retain_weight=0.0, alpha=1.0, horizon=1e9, steps=2, batch_size=12, lr=3e-3
    )
    settings = made.spec.settings
    assert settings["first_loss"] - settings["last_loss"] > 1e-4


def test_the_first_loss_is_that_of_the_text_without_bos(tiny_data: UnlearnData) -> None:
    model = tiny_model("llama", dtype=torch.float64)
    made = circuit_breakers(model, tiny_data, blocks=[1], alpha=2.0, steps=1, batch_size=12)
    batch = encode(model, tiny_data.forget)
    with torch.no_grad():
        here = residuals(model, batch, [1])[1]
    there = nudged(here, control_vector(model.d_model, dist="normal"))
    text = batch.mask.clone()
    text[:, 0] = False
    assert made.spec.settings["first_loss"] == pytest.approx(2 * float(rerouting_loss(here, there, text)), rel=1e-9)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_adapters_reach_up_to_the_last_block_that_is_read(family: str, tiny_data: UnlearnData) -> None:
    model = shared_model(family)
    made = circuit_breakers(model, tiny_data, blocks=[1], **FAST)
    assert made.weights is not None
    assert all(isinstance(delta, LowRankDelta) for delta in made.weights.deltas.values())
    touched = {block for block in range(3) if model.weight_name("mlp.out", block) in made.weights.deltas}
    assert touched == {0, 1}
    chosen = circuit_breakers(model, tiny_data, parameters=lambda n: n == model.weight_name("mlp.out", 0), **FAST)
    assert chosen.weights is not None
    assert set(chosen.weights.deltas) == {model.weight_name("mlp.out", 0)}
    # None is a setting that nobody chose.
    same = circuit_breakers(model, tiny_data, blocks=[1], parameters=None, mask=None, **FAST)
    assert same.spec == made.spec
    narrow = circuit_breakers(model, tiny_data, lora=2, parameters=lambda n: "mlp" in n, **FAST)
    assert narrow.spec.settings["lora_scale"] == made.spec.settings["lora_scale"] == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_forget_activations_turn_and_retain_ones_stay(seed: int, knowing: HookedModel, task: UnlearnData) -> None:
    made = circuit_breakers(
        knowing, task, retain_weight=5.0, lr=5e-3, epochs=50, batch_size=6, seed=seed, progress=False
    )

    @torch.no_grad()
    def turned(items: tuple[Any, ...]) -> float:
        batch = knowing.tokenize([item.text for item in items], padding_side="right")
        before = residuals(knowing, batch, [1])[1]
        with made.applied(knowing) as view:
            return float(rerouting_loss(residuals(view, batch, [1])[1], before, batch.mask))

    assert turned(task.forget) < 0.5
    assert turned(task.retain) > 0.9
    with made.applied(knowing) as view:
        assert probability(view, task.forget) < 0.3
        assert probability(view, task.retain) > 0.8


def test_what_is_refused(task: UnlearnData) -> None:
    model = shared_model("gpt2")
    with pytest.raises(VestigeError, match=r"got alpha=0, horizon=2\.0, retain_weight=10\.0"):
        circuit_breakers(model, task, alpha=0)
    with pytest.raises(VestigeError, match=r"layers are some of 0 to 2 .*, got 7"):
        circuit_breakers(model, task, blocks=[7])
    with pytest.raises(VestigeError, match="the mask marks no token"):
        staying_loss(row((1, 2)), row((1, 2)), real(False))
