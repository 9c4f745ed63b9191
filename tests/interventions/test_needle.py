from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from interventions import Minibatch, ablate_vectors, cross_entropy, forget_nll, needle_tune
from interventions.training.gradient_ascent import gradient_ascent_loss
from tests.contracts import InterventionContract
from tests.tiny import tiny_model

VECTORS = ((0, 3), (1, 5), (1, 40))


class TestNeedle(InterventionContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return needle_tune(model, data, VECTORS, steps=2)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "opt"])
def test_only_the_chosen_rows_change(family: str, tiny_data: UnlearnData) -> None:
    model = tiny_model(family)
    before = {name: tensor.clone() for name, tensor in model.state().items()}
    rows = {layer: model.value_vectors(layer).clone() for layer in range(2)}
    made = needle_tune(model, tiny_data, [(1, 5)], steps=10, lr=0.5, max_grad_norm=None)
    name = model.weight_name("mlp.out", 1)
    with made.applied(model):
        for other, tensor in model.state().items():
            assert torch.equal(tensor, before[other]) == (other != name), other
        changed = model.value_vectors(1)
        kept = [j for j in range(model.d_mlp) if j != 5]
        assert torch.equal(changed[kept], rows[1][kept])
        assert not torch.equal(changed[5], rows[1][5])


def test_it_is_plain_gradient_descent_on_the_rows_after_the_noise(tiny_data: UnlearnData) -> None:
    """The oracle edits the matrix itself and takes the gradient of the row."""
    model, oracle = (tiny_model("llama", dtype=torch.float64) for _ in range(2))
    lr, steps, n = 0.3, 3, len(tiny_data.forget)
    made = needle_tune(
        model, tiny_data, VECTORS, steps=steps, lr=lr, scale=2.0, batch_size=n, max_grad_norm=None, seed=7
    )
    noisy = ablate_vectors(oracle, VECTORS, scale=2.0, seed=7)
    batch = oracle.tokenize([i.prompt for i in tiny_data.forget], answers=[i.answer for i in tiny_data.forget])
    with noisy.applied(oracle):
        for _ in range(steps):
            loss = gradient_ascent_loss(forget_nll(oracle, Minibatch(batch, torch.arange(n), None)))
            oracle.model.zero_grad()
            loss.backward()
            for layer, neuron in VECTORS:
                weight = oracle.model.get_parameter(oracle.weight_name("mlp.out", layer))
                assert weight.grad is not None
                with torch.no_grad():
                    weight[:, neuron] -= lr * weight.grad[:, neuron]
        with made.applied(model):
            for layer, neuron in VECTORS:
                found, wanted = model.value_vectors(layer)[neuron], oracle.value_vectors(layer)[neuron]
                assert torch.allclose(found, wanted, atol=1e-9)
                assert not torch.allclose(found, wanted + 0.01)


def test_training_goes_on_where_the_noise_stops(tiny_data: UnlearnData) -> None:
    model = tiny_model("gpt2", dtype=torch.float64)
    noise = ablate_vectors(model, VECTORS, scale=3.0, seed=2)
    still = needle_tune(model, tiny_data, VECTORS, steps=0, scale=3.0, seed=2)
    with noise.applied(model) as view, torch.no_grad():
        wanted = view.logits("t5 t6")
    with still.applied(model) as view, torch.no_grad():
        assert torch.allclose(view.logits("t5 t6"), wanted)
    tuned = needle_tune(model, tiny_data, VECTORS, epochs=4, batch_size=6, lr=0.5, scale=3.0, seed=2)
    losses = tuned.spec.settings
    assert losses["steps_taken"] == 8
    assert losses["last_loss"] < losses["first_loss"]


def test_another_loss_can_be_descended(tiny_data: UnlearnData) -> None:
    def learn(current: HookedModel, batch: Minibatch) -> Tensor:
        return cross_entropy(forget_nll(current, batch))

    made = needle_tune(tiny_model("gpt2"), tiny_data, VECTORS, loss_fn=learn, steps=8, lr=0.5, scale=0.0)
    assert 0 < made.spec.settings["last_loss"] < made.spec.settings["first_loss"]


@pytest.mark.parametrize(
    ("vectors", "settings", "message"),
    [
        ([], {}, "no vector was given"),
        ([(9, 0)], {}, "no layer 9"),
        ([(0, 0)], {"lr": 0.0}, "lr is a finite number above 0, got 0.0"),
        ([(0, 0)], {"scale": -1.0}, "scale is a finite number of at least 0"),
    ],
)
def test_wrong_arguments_are_named(
    vectors: list[tuple[int, int]], settings: dict[str, object], message: str, tiny_data: UnlearnData
) -> None:
    with pytest.raises(VestigeError, match=message):
        needle_tune(tiny_model("gpt2"), tiny_data, vectors, **settings)  # type: ignore[arg-type]
