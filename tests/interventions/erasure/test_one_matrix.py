"""What the six defences share: one matrix that changes, its bound, and the KL term."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from hooked import HookedModel, Intervention, Item, LowRankDelta, UnlearnData, VestigeError
from hooked.weights import values_of
from interventions.batches import encode
from interventions.erasure import (
    empty_response,
    error_injection,
    fact_erasure,
    head_projection,
    kl_to_original,
    max_entropy,
)
from interventions.erasure.one_matrix import edit_matrix
from interventions.training.losses import predicting
from tests.interventions.erasure.defences import FAST
from tests.interventions.training.test_losses import CURRENT, ORIGINAL, TO_6_DIGITS
from tests.tiny import shared_model, tiny_model

DEFENCES: dict[str, Callable[..., Intervention]] = {
    "fact_erasure": fact_erasure,
    "empty_response": empty_response,
    "error_injection": error_injection,
    "head_projection": head_projection,
    "max_entropy": max_entropy,
}


def kl_of(logits: Tensor, original: Tensor) -> Tensor:
    return kl_to_original(logits[None], original[None], torch.ones(1, len(logits), dtype=torch.bool))


def test_the_kl_term_has_the_direction_of_rome() -> None:
    # The other direction is 0.094038.
    assert kl_of(CURRENT, ORIGINAL).item() == pytest.approx(0.090464, abs=TO_6_DIGITS)
    log_p, log_p0 = CURRENT.log_softmax(-1), ORIGINAL.log_softmax(-1)
    by_hand = (log_p.exp() * (log_p - log_p0)).sum(-1).mean()
    torch.testing.assert_close(kl_of(CURRENT, ORIGINAL), by_hand, rtol=1e-12, atol=0)
    assert kl_of(CURRENT, CURRENT).item() == 0
    sure = torch.tensor([[50.0, 0.0]]), torch.tensor([[0.0, 0.0]])
    assert kl_of(*sure) < 1
    assert kl_of(*sure[::-1]) > 20


def test_the_kl_term_ignores_constants_masked_places_and_has_the_right_gradient(rng: torch.Generator) -> None:
    logits = torch.randn(3, 4, generator=rng, dtype=torch.float64).requires_grad_()
    assert gradcheck(lambda a: kl_of(a, ORIGINAL), (logits,))
    shift = torch.tensor([[3.0], [-7.0], [40.0]], dtype=torch.float64)
    for shifted in (kl_of(CURRENT + shift, ORIGINAL), kl_of(CURRENT, ORIGINAL + shift)):
        torch.testing.assert_close(shifted, kl_of(CURRENT, ORIGINAL), rtol=1e-12, atol=1e-12)
    original = ORIGINAL.clone().requires_grad_()
    assert torch.autograd.grad(kl_of(logits, original), [original], allow_unused=True)[0] is None
    wide = torch.cat([CURRENT, torch.full((2, 4), torch.nan, dtype=torch.float64)])
    mask = torch.tensor([[True, True, True, False, False]])
    assert kl_to_original(wide[None], wide[None] + 0, mask).item() == 0
    with pytest.raises(VestigeError, match="a mask that marks something"):
        kl_to_original(wide[None], wide[None], torch.zeros_like(mask))


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "opt"])
@pytest.mark.parametrize(("layer", "part"), [(None, "mlp.out"), (0, "attn.o")])
def test_every_other_weight_stays_bit_equal(family: str, layer: int | None, part: str, tiny_data: UnlearnData) -> None:
    model = tiny_model(family)
    before = {name: tensor.clone() for name, tensor in model.state().items()}
    made = fact_erasure(model, tiny_data, layer=layer, part=part, weight_decay=0.1, **FAST)
    block = 1 if layer is None else layer
    assert (made.spec.settings["layer"], made.spec.settings["part"]) == (block, part)
    with made.applied(model):
        changed = {name for name, tensor in model.state().items() if not torch.equal(tensor, before[name])}
    assert changed == {model.weight_name(part, block)}


@pytest.mark.parametrize("name", DEFENCES)
def test_every_defence_keeps_to_its_matrix_and_its_bound(name: str, tiny_data: UnlearnData) -> None:
    model = tiny_model("gpt2", dtype=torch.float64)
    settings: dict[str, Any] = {"lr": 1e-2, "steps": 4, "layer": 2, "progress": False}
    free, bounded = (DEFENCES[name](model, tiny_data, max_change=bound, **settings) for bound in (None, 1e-4))
    largest = []
    for made in (free, bounded):
        assert made.weights is not None
        assert set(made.weights.deltas) == {model.weight_name("mlp.out", 2)}
        largest += [float(values_of(delta).abs().max()) for delta in made.weights.deltas.values()]
    assert largest[0] > 1e-2
    assert largest[1] == pytest.approx(1e-4, rel=1e-9)
    assert bounded.spec.settings["max_change"] == 1e-4


def test_an_adapter_sits_on_the_matrix_alone(tiny_data: UnlearnData) -> None:
    model = tiny_model("gpt2")
    made = fact_erasure(model, tiny_data, lora=2, layer=1, **FAST)
    assert made.weights is not None
    assert set(made.weights.deltas) == {model.weight_name("mlp.out", 1)}
    (delta,) = made.weights.deltas.values()
    assert isinstance(delta, LowRankDelta)
    assert delta.left.shape[1] == 2


def test_the_kl_term_keeps_the_neutral_text(knowing: HookedModel, task: UnlearnData) -> None:
    batch = encode(knowing, task.retain)

    @torch.no_grad()
    def drift(model: HookedModel, original: Tensor) -> float:
        return float(kl_to_original(model.logits(batch), original, predicting(batch.answer)))

    with torch.no_grad():
        original = knowing.logits(batch)
    found = []
    for weight in (0.0, 1.0):
        made = fact_erasure(knowing, task, kl_weight=weight, lr=3e-2, epochs=20, batch_size=6)
        assert made.spec.needs == (("forget", "retain", "reference") if weight else ("forget",))
        with made.applied(knowing) as view:
            found.append(drift(view, original))
    assert found[1] < 0.2 * found[0], found


def test_the_kl_term_is_of_the_edited_to_the_original(tiny_data: UnlearnData) -> None:
    """At the second step the two directions differ; the defence itself says nothing here."""
    model = tiny_model("gpt2", dtype=torch.float64)
    batch = encode(model, tiny_data.retain)
    where = predicting(batch.answer)
    made = [
        edit_matrix(
            model,
            tiny_data,
            lambda current, minibatch: current.logits(minibatch.forget).logsumexp(-1).mean(),
            {"steps": steps, "lr": 0.1, "batch_size": 40, "progress": False},
            name="mine",
            layer=2,
            part="mlp.out",
            kl_weight=1.0,
            settings={},
        )
        for steps in (1, 2)
    ]
    with torch.no_grad():
        before = model.logits(batch)
        with made[0].applied(model) as view:
            after = view.logits(batch)
            said = float(view.logits(encode(model, tiny_data.forget)).logsumexp(-1).mean())
    term = made[1].spec.settings["last_loss"] - said
    assert term == pytest.approx(float(kl_to_original(after, before, where)), rel=1e-6)
    assert term != pytest.approx(float(kl_to_original(before, after, where)), rel=1e-2)


def test_wrong_settings_are_named(tiny_data: UnlearnData) -> None:
    model = shared_model("gpt2")
    for given in ({"parameters": lambda name: True}, {"layers": [1]}):
        name = next(iter(given))
        with pytest.raises(VestigeError, match=f"one weight matrix, named by layer= and part=; leave {name}= out"):
            fact_erasure(model, tiny_data, **given)
    with pytest.raises(VestigeError, match="kl_weight is a finite number of at least 0, got -1"):
        fact_erasure(model, tiny_data, kl_weight=-1.0)
    with pytest.raises(VestigeError, match="fact_erasure with kl_weight=1 needs retain items"):
        fact_erasure(model, replace(tiny_data, retain=()))
    with pytest.raises(VestigeError, match="no layer 3"):
        fact_erasure(model, tiny_data, layer=3)
    with pytest.raises(VestigeError, match=r"mlp\.nowhere"):
        fact_erasure(model, tiny_data, part="mlp.nowhere")
    with pytest.raises(VestigeError, match=r"lora= trains adapters .* leave mask= and max_change= out"):
        fact_erasure(model, tiny_data, lora=2, max_change=1e-4)


@pytest.mark.parametrize("name", ["error_injection", "head_projection", "max_entropy"])
def test_a_document_has_no_end_of_a_prompt(name: str, tiny_data: UnlearnData) -> None:
    documents = tuple(Item("", f"{item.prompt} {item.answer}") for item in tiny_data.forget)
    with pytest.raises(VestigeError, match=f"{name} needs forget items with a prompt, and all are plain documents"):
        DEFENCES[name](shared_model("gpt2"), replace(tiny_data, forget=documents))
