"""Helpers of the probe tests: the largest tensor a block of code makes, and labelled clouds of points."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from hooked import HookedModel


class LargestTensor(TorchDispatchMode):
    """Records the number of entries of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        given = {_storage(item) for item in (*args, *kwargs.values()) if isinstance(item, Tensor)}
        for item in out if isinstance(out, tuple | list) else (out,):
            # A view of an argument allocates nothing.
            if isinstance(item, Tensor) and _storage(item) not in given:
                self.numel = max(self.numel, item.numel())
        return out


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


Cloud = tuple[Tensor, Tensor, Tensor]


@pytest.fixture
def cloud(rng: torch.Generator) -> Callable[..., Cloud]:
    """Make activations, labels and groups: two rows per group, one of each class, `shift` apart along one axis."""

    def make(n_groups: int = 60, d_model: int = 8, shift: float = 3.0, dtype: torch.dtype = torch.float64) -> Cloud:
        groups = torch.arange(n_groups).repeat_interleave(2)
        labels = torch.arange(2 * n_groups) % 2 == 1
        acts = torch.randn(2 * n_groups, d_model, generator=rng, dtype=dtype)
        acts += torch.randn(n_groups, d_model, generator=rng, dtype=dtype)[groups]
        acts[:, 0] += shift * labels
        return acts, labels, groups

    return make


def bits(model: HookedModel) -> dict[str, Tensor]:
    """Copy all parameters and buffers."""
    return {name: tensor.detach().clone() for name, tensor in model.state().items()}


def assert_same_bits(model: HookedModel, before: dict[str, Tensor]) -> None:
    """Assert that no parameter or buffer changed."""
    assert [name for name, tensor in model.state().items() if not torch.equal(tensor, before[name])] == []
