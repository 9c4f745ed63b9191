"""A model without dropout for as long as it is measured."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hooked import HookedModel


@contextmanager
def evaluating(model: HookedModel) -> Iterator[None]:
    """Put a model in eval mode for the length of the block, then each of its modules in the mode that it was in."""
    modes = [(module, module.training) for module in model.model.modules()]
    model.model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
