from __future__ import annotations

from dataclasses import replace
from math import sqrt
from typing import Any

import pytest
import torch
from torch.autograd import gradcheck

from hooked import HookedModel, Intervention, Item, UnlearnData, VestigeError
from interventions.training.activations import residuals
from interventions.training.descent import Minibatch, retain_batch
from interventions.training.rmu import control_vector, mean_norm, rmu, rmu_loss
from tests.contracts import InterventionContract
from tests.interventions.training.knowing import probability
from tests.tiny import shared_model, tiny_model

FAST: dict[str, Any] = {"lr": 3e-3, "steps": 3, "progress": False}


class TestRMU(InterventionContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return rmu(model, data, **FAST)


def loss_of(forget: torch.Tensor, retain: torch.Tensor, **changes: Any) -> torch.Tensor:
    """RMU with everything real, a control vector of norm c and nothing moved on retain text."""
    given: dict[str, Any] = {
        "reference": retain.detach(),
        "control": torch.zeros(forget.shape[-1], dtype=forget.dtype),
        "forget_mask": torch.ones(forget.shape[:2], dtype=torch.bool),
        "retain_mask": torch.ones(retain.shape[:2], dtype=torch.bool),
        "alpha": 1.0,
    }
    return rmu_loss(forget, retain, **{**given, **changes})


def test_silent_activations_are_c_squared_over_d_away(rng: torch.Generator) -> None:
    zero = torch.zeros(2, 3, 8, dtype=torch.float64)
    unit = control_vector(8).double()
    assert loss_of(zero, zero, control=6.5 * unit).item() == pytest.approx(6.5**2 / 8, rel=1e-6)


def test_the_retain_term_is_a_squared_distance_over_d() -> None:
    zero = torch.zeros(1, 4, 8, dtype=torch.float64)
    moved = zero.clone()
    moved[..., 0] = 3.0
    assert loss_of(zero, moved, reference=zero, alpha=5.0).item() == pytest.approx(5 * 9 / 8)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_counts_for_nothing(side: str, rng: torch.Generator) -> None:
    forget, retain, before = torch.randn(3, 2, 4, 6, generator=rng, dtype=torch.float64)
    wanted = loss_of(forget, retain, reference=before)
    width = (3, 0) if side == "left" else (0, 3)
    pad = torch.nn.functional.pad
    wide = [pad(t, (0, 0, *width), value=float("nan")) for t in (forget, retain, before)]
    mask = pad(torch.ones(2, 4, dtype=torch.bool), width)
    got = loss_of(wide[0], wide[1], reference=wide[2], forget_mask=mask, retain_mask=mask)
    assert got.item() == pytest.approx(wanted.item(), rel=1e-12)


def test_gradients(rng: torch.Generator) -> None:
    forget, retain, before = torch.randn(3, 1, 3, 4, generator=rng, dtype=torch.float64)
    mask = torch.tensor([[True, False, True]])
    control = torch.randn(4, generator=rng, dtype=torch.float64)

    def loss(f: torch.Tensor, r: torch.Tensor) -> torch.Tensor:
        return loss_of(f, r, reference=before, control=control, forget_mask=mask, alpha=7.0)

    assert gradcheck(loss, (forget.requires_grad_(), retain.requires_grad_()))
    grad = torch.autograd.grad(loss(forget, retain), forget)[0]
    closed = torch.where(mask[..., None], 2 * (forget - control) / (2 * 4), 0.0)
    torch.testing.assert_close(grad, closed)


def test_the_uniform_control_vector_points_along_ones() -> None:
    """So a LayerNorm takes three quarters of its square away, and two corpora share most of their target."""
    drawn = torch.stack([control_vector(2048, seed=seed) for seed in range(8)])
    ones = torch.ones(2048) / sqrt(2048)
    torch.testing.assert_close(drawn.norm(dim=-1), torch.ones(8))
    assert (drawn >= 0).all()
    assert (drawn @ ones).mean().item() == pytest.approx(sqrt(3) / 2, abs=5e-3)
    between = (drawn @ drawn.T)[~torch.eye(8, dtype=torch.bool)]
    assert between.mean().item() == pytest.approx(0.75, abs=1e-2)
    centred = drawn - drawn.mean(-1, keepdim=True)
    assert centred.square().sum(-1).mean().item() == pytest.approx(0.25, abs=1e-2)
    normal = torch.stack([control_vector(2048, dist="normal", seed=seed) for seed in range(8)])
    assert (normal @ ones).abs().max() < 0.1


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_only_three_matrices_change_and_nothing_before_them(family: str, tiny_data: UnlearnData) -> None:
    model = shared_model(family)
    made = rmu(model, tiny_data, layer=2, **FAST)
    assert made.weights is not None
    assert set(made.weights.deltas) == {model.weight_name("mlp.out", block) for block in range(3)}
    late = rmu(model, tiny_data, layer=0, **FAST)
    assert late.weights is not None
    assert set(late.weights.deltas) == {model.weight_name("mlp.out", 0)}
    prompts = [item.prompt for item in tiny_data.forget[:3]]
    names = ["hook_embed", "blocks.0.hook_resid_mid"]
    before = model.run_with_cache(prompts, names_filter=names)[1]
    with made.applied(model) as view:
        after = view.run_with_cache(prompts, names_filter=names)[1]
    assert all(torch.equal(before[name], after[name]) for name in names)


def test_what_the_caller_trains_is_what_trains(tiny_data: UnlearnData) -> None:
    model = shared_model("llama")
    name = model.weight_name("attn.o", 0)
    made = rmu(model, tiny_data, parameters=lambda n: n == name, **FAST)
    assert made.weights is not None
    assert set(made.weights.deltas) == {name}
    assert rmu(model, tiny_data, lora=2, **FAST).spec.settings["lora"] == 2
    # None is a setting that nobody chose.
    nobody = rmu(model, tiny_data, parameters=None, layers=None, mask=None, lora=None, **FAST)
    assert nobody.weights is not None
    assert set(nobody.weights.deltas) == {model.weight_name("mlp.out", block) for block in range(2)}


def test_c_can_be_relative_or_absolute(tiny_data: UnlearnData) -> None:
    model = shared_model("llama")
    norm = mean_norm(model, tiny_data.forget, 1)
    relative = rmu(model, tiny_data, layer=1, c_rel=3.0, **FAST).spec.settings
    absolute = rmu(model, tiny_data, layer=1, c=3.0 * norm, **FAST).spec.settings
    assert relative["c"] == pytest.approx(3 * norm)
    assert absolute["c_rel"] == pytest.approx(3)
    assert relative["first_loss"] == pytest.approx(absolute["first_loss"])


def test_the_first_loss_is_that_of_the_text_without_bos(tiny_data: UnlearnData) -> None:
    model = tiny_model("gpt2", dtype=torch.float64)
    made = rmu(model, tiny_data, layer=1, c=3.0, steps=1, batch_size=12)
    site = "blocks.1.hook_resid_post"
    alone = [model.run_with_cache(item.text, names_filter=site)[1][site][0, 1:] for item in tiny_data.forget]
    wanted = (torch.cat(alone) - 3 * control_vector(model.d_model)).square().mean()
    assert made.spec.settings["first_loss"] == pytest.approx(wanted.item(), rel=1e-9)


def test_the_mean_norm_is_that_of_real_tokens_but_bos(tiny_data: UnlearnData) -> None:
    model = shared_model("gpt2")
    items = (*tiny_data.forget[:3], Item("", "t5 t6 t7 t8 t9"))
    site = "blocks.1.hook_resid_post"
    alone = [model.run_with_cache(item.text, names_filter=site)[1][site][0, 1:].norm(dim=-1) for item in items]
    assert mean_norm(model, items, 1, batch_size=3) == pytest.approx(float(torch.cat(alone).mean()), rel=1e-5)


def test_residuals_carry_gradients_and_are_those_of_the_cache(tiny_data: UnlearnData) -> None:
    model = shared_model("gpt2")
    batch = model.tokenize([item.prompt for item in tiny_data.forget[:3]], padding_side="right")
    read = residuals(model, batch, [0, 2])
    cache = model.run_with_cache(batch, names_filter=lambda name: name.endswith("resid_post"))[1]
    assert list(read) == [0, 2]
    for block, values in read.items():
        assert values.requires_grad
        assert torch.equal(values, cache[f"blocks.{block}.hook_resid_post"])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_forget_answers_go_and_retain_answers_stay(seed: int, knowing: HookedModel, task: UnlearnData) -> None:
    same: dict[str, Any] = {"lr": 1e-2, "epochs": 60, "batch_size": 6, "seed": seed, "progress": False}
    made = rmu(knowing, task, alpha=10.0, **same)
    careless = rmu(knowing, task, alpha=0.0, retain_bound=99.0, **same)
    with made.applied(knowing) as view:
        assert probability(view, task.forget) < 0.25
        kept = probability(view, task.retain)
    with careless.applied(knowing) as view:
        assert probability(view, task.retain) < kept - 0.3
    assert kept > 0.8


def test_what_is_refused(task: UnlearnData) -> None:
    model = shared_model("gpt2")
    with pytest.raises(VestigeError, match="dist is 'uniform' or 'normal', got 'beta'"):
        rmu(model, task, dist="beta")  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match="got -1 and alpha=100"):
        rmu(model, task, c=-1)
    with pytest.raises(VestigeError, match=r"layers are some of 0 to 2 .*, got 3"):
        rmu(model, task, layer=3)
    zero = torch.zeros(1, 2, 4)
    with pytest.raises(VestigeError, match="forget_mask marks no token"):
        loss_of(zero, zero, forget_mask=torch.zeros(1, 2, dtype=torch.bool))
    with pytest.raises(VestigeError, match="this loss needs retain items"):
        retain_batch(Minibatch(model.tokenize("t5"), torch.arange(1), None))
    with pytest.raises(VestigeError, match="rmu needs retain items"):
        rmu(model, replace(task, retain=()))
