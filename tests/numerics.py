"""The one tolerance for tensors that two correct float32 computations may get in different last places."""

from __future__ import annotations

import torch
from torch import Tensor

# A few layers of float32 sums, in units of the largest value: some dozens of roundings, no more.
FLOAT32 = 1e-5


def error(got: Tensor, wanted: Tensor) -> float:
    """Return the largest difference in units of the largest wanted value (at least 1)."""
    assert got.shape == wanted.shape, f"{tuple(got.shape)} against {tuple(wanted.shape)}"
    got, wanted = got.detach().to("cpu", torch.float64), wanted.detach().to("cpu", torch.float64)
    return float((got - wanted).abs().max() / wanted.abs().max().clamp(min=1))
