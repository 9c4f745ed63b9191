"""A tiny model that was taught every answer of a small task, to be made to forget some."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hooked import HookedModel, Intervention, Spec, UnlearnData
from interventions import cross_entropy, forget_nll, train
from tests.interventions.conftest import make_items
from tests.tiny import tiny_model


@pytest.fixture(scope="session")
def task() -> UnlearnData:
    return UnlearnData(make_items(6, low=3, high=40, seed=1), make_items(12, low=40, high=99, seed=2))


@pytest.fixture(scope="session")
def knowing(task: UnlearnData) -> Iterator[HookedModel]:
    """A model that was taught every answer of the task."""
    model = tiny_model("llama")
    everything = UnlearnData(task.forget + task.retain)
    taught = train(model, everything, lambda m, b: cross_entropy(forget_nll(m, b)), epochs=40, lr=1e-2, progress=False)
    with Intervention(Spec("teach", "attack"), weights=taught.patch).applied(model):
        yield model
