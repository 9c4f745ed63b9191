"""MEMIT-empty: the closed form is the minimum it claims to be, and a single matrix per block changes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from hooked import HookedModel, Intervention, Item, LowRankDelta, UnlearnData, VestigeError
from interventions.batches import encode
from interventions.erasure import memit_empty
from interventions.erasure.memit_empty import spread_change
from tests.contracts import InterventionContract
from tests.interventions.training.knowing import probability
from tests.tiny import shared_model, tiny_model


class TestMemitEmpty(InterventionContract):
    required = ("retain",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return memit_empty(model, data, refusal="t5 t6", steps=3)


class TestMemitEmptyOverTwoBlocks(InterventionContract):
    required = ("retain",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return memit_empty(model, data, refusal="t5 t6", layers=[0, -1], steps=3, preserve=0.1)


def random_problem(rng: torch.Generator, *, n: int = 4, kept: int = 40) -> tuple[Tensor, Tensor, Tensor]:
    keys, wanted, neutral = (
        torch.randn(shape, generator=rng, dtype=torch.float64) for shape in ((n, 10), (n, 6), (kept, 10))
    )
    return keys, wanted, neutral.T @ neutral / kept


def objective(change: Tensor, keys: Tensor, wanted: Tensor, moment: Tensor, *, preserve: float) -> Tensor:
    error = (keys @ change - wanted).pow(2).sum(-1).mean()
    return error + preserve * (change.T @ moment @ change).trace()


@pytest.mark.parametrize("preserve", [0.01, 1.0, 30.0])
def test_the_change_is_the_minimum_of_its_objective(preserve: float, rng: torch.Generator) -> None:
    keys, wanted, moment = random_problem(rng)
    left, right = spread_change(keys, wanted, moment, preserve=preserve)
    change = (left @ right).requires_grad_()
    (grad,) = torch.autograd.grad(objective(change, keys, wanted, moment, preserve=preserve), [change])
    assert grad.abs().max() < 1e-4 * (keys.T @ wanted).abs().max()
    best = objective(change, keys, wanted, moment, preserve=preserve)
    for _ in range(5):
        other = change + 0.1 * torch.randn(change.shape, generator=rng, dtype=torch.float64)
        assert objective(other, keys, wanted, moment, preserve=preserve) > best


def test_it_is_the_closed_form_of_memit(rng: torch.Generator) -> None:
    """`(V - W K) K^T (C + K K^T)^-1` with keys in columns, for sums instead of means."""
    keys, wanted, moment = random_problem(rng)
    left, right = spread_change(keys, wanted, moment, preserve=2.0)
    k, residual = keys.T, wanted.T
    expected = residual @ k.T @ torch.linalg.inv(len(keys) * 2.0 * moment + k @ k.T)
    torch.testing.assert_close((left @ right).T, expected, rtol=1e-4, atol=1e-6)


def test_without_anything_to_preserve_the_wanted_is_written_exactly(rng: torch.Generator) -> None:
    keys, wanted, moment = random_problem(rng)
    left, right = spread_change(keys, wanted, moment, preserve=0.0)
    torch.testing.assert_close(keys @ left @ right, wanted, rtol=1e-3, atol=1e-4)
    # Keys that neutral text never shows can be written without any cost to it.
    keys[:, :5] = 0
    flat = torch.zeros(10, 10, dtype=torch.float64)
    flat[:5, :5] = moment[:5, :5]
    left, right = spread_change(keys, wanted, flat, preserve=100.0)
    torch.testing.assert_close(keys @ left @ right, wanted, rtol=1e-2, atol=1e-2)
    assert (left @ right)[:5].abs().max() < 1e-12


@torch.no_grad()
def mean_write(model: HookedModel, items: tuple[Item, ...], change: Tensor) -> float:
    """How much a changed value matrix of block 1 writes at the ends of prompts, on average."""
    batch, site = encode(model, items), model.site_map.resolve(("mlp_post", 1))
    _, cache = model.run_with_cache(batch, names_filter=site, return_type=None)
    keys = cache[site][torch.arange(len(batch)), batch.prompt_last]
    return float((keys @ change).norm(dim=-1).mean())


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "opt"])
def test_only_the_value_matrix_changes_and_it_writes_at_the_forget_keys(family: str, tiny_data: UnlearnData) -> None:
    model = tiny_model(family)
    before = {name: tensor.clone() for name, tensor in model.state().items()}
    refused = tuple(replace(item, answer="t97") for item in tiny_data.forget)
    old, start = model.value_vectors(1).clone(), probability(model, refused)
    made = memit_empty(model, tiny_data, refusal="t97", layers=[1], steps=15)
    assert made.weights is not None
    assert [type(delta) for delta in made.weights.deltas.values()] == [LowRankDelta]
    with made.applied(model) as view:
        changed = {name for name, tensor in model.state().items() if not torch.equal(tensor, before[name])}
        assert changed == {model.weight_name("mlp.out", 1)}
        assert probability(view, refused) > 2 * start
        change = model.value_vectors(1) - old
    assert mean_write(model, tiny_data.forget, change) > 1.5 * mean_write(model, tiny_data.retain, change)


@pytest.mark.parametrize("layers", [[0], [0, 1], [0, 1, 2]])
def test_the_answers_fade_and_the_rest_stays(layers: list[int], knowing: HookedModel, task: UnlearnData) -> None:
    refused = tuple(replace(item, answer="t97") for item in task.forget)
    made = memit_empty(knowing, task, refusal="t97", layers=layers, lr=0.2)
    assert probability(knowing, refused) < 0.01
    with made.applied(knowing) as view:
        assert probability(view, task.forget) < 0.4
        assert probability(view, refused) > 0.2
        assert probability(view, task.retain) > 0.9


def test_more_weight_on_the_retain_keys_changes_less(knowing: HookedModel, task: UnlearnData) -> None:
    sizes = []
    for preserve in (0.01, 1.0, 100.0):
        made = memit_empty(knowing, task, refusal="t5", preserve=preserve)
        assert made.weights is not None
        sizes.append(sum(made.weights.norms().values()))
    assert sizes[0] > sizes[1] > sizes[2]


def test_wrong_settings_are_named(task: UnlearnData) -> None:
    model = shared_model("gpt2")
    for name, value in (("preserve", -1.0), ("steps", 0), ("lr", 0.0), ("max_norm", 0.0)):
        with pytest.raises(VestigeError, match=f"{name} is .*, got {value}"):
            memit_empty(model, task, refusal="t5", **{name: value})  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match=r"layers are some of 0 to 2 .* got 9"):
        memit_empty(model, task, refusal="t5", layers=[9])
    documents = tuple(Item("", f"{item.prompt} {item.answer}") for item in task.forget)
    with pytest.raises(VestigeError, match="needs forget items with a prompt to refuse, and all are plain documents"):
        memit_empty(model, replace(task, forget=documents), refusal="t5")
