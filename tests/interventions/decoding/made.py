"""Second models made of a first one, and tiny models that were taught a task."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from hooked import DenseDelta, HookedModel, Intervention, Item, Spec, UnlearnData, WeightPatch
from hooked.weights import parameters_of
from interventions import cross_entropy, forget_nll, train
from tests.interventions.conftest import make_items
from tests.tiny import tiny_model


def random_patch(model: HookedModel, *, seed: int = 0, layer: int = 0) -> WeightPatch:
    """Return random changes of one block's MLP, as large as its weights are."""
    rng = torch.Generator().manual_seed(seed)
    name = model.weight_name("mlp.out", layer)
    parameter = parameters_of(model.model)[name]
    return WeightPatch({name: DenseDelta(0.3 * torch.randn(parameter.shape, generator=rng, dtype=parameter.dtype))})


def applied_logits(made: Intervention, model: HookedModel, inputs: Tensor | list[str] | str) -> Tensor:
    """Return what a view says, without gradients."""
    with torch.no_grad(), made.applied(model) as view:
        return view.logits(inputs)


def task_of(seed: int) -> UnlearnData:
    """Six items to forget and twelve to keep, in words of their own."""
    return UnlearnData(
        make_items(6, low=3, high=40, seed=10 * seed + 1), make_items(12, low=40, high=99, seed=10 * seed + 2)
    )


@contextmanager
def taught(items: tuple[Item, ...], *, seed: int, epochs: float = 25) -> Iterator[HookedModel]:
    """A model that was taught some items."""
    model = tiny_model("llama", seed=seed)
    data = UnlearnData(items)
    patch = train(
        model, data, lambda m, b: cross_entropy(forget_nll(m, b)), epochs=epochs, lr=1e-2, progress=False
    ).patch
    with Intervention(Spec("teach", "attack"), weights=patch).applied(model):
        yield model
