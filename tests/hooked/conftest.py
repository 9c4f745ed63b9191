"""What the tests of `hooked` share. Gradients are off unless a test turns them on, as in most reading."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from hooked import HookedModel
from tests.tiny import random_ids, shared_model


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture
def model() -> HookedModel:
    """A tiny Llama that many tests read and none changes for good."""
    return shared_model()


@pytest.fixture
def ids(rng: torch.Generator) -> Tensor:
    """Two rows of seven ordinary tokens."""
    return random_ids(rng)


@pytest.fixture
def untouched(model: HookedModel) -> Iterator[HookedModel]:
    """The shared model; the test fails if it leaves a changed weight or a hook behind."""
    before = {name: value.clone() for name, value in model.state().items()}
    hooks = {name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.model.named_modules()}
    yield model
    changed = [name for name, value in model.state().items() if not torch.equal(value, before[name])]
    assert changed == []
    assert hooks == {
        name: (len(m._forward_hooks), len(m._forward_pre_hooks)) for name, m in model.model.named_modules()
    }
