"""A model through which gradients pass without reaching its own parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

from hooked import HookedModel
from interventions.evaluating import evaluating


@contextmanager
def frozen(model: HookedModel) -> Iterator[None]:
    """Keep grad mode on, every parameter without gradient and every module in eval mode for the length of the block.

    Afterwards all of it is as it was, also after an exception.

    Args:
        model: A model or a view.
    """
    wanted = [(parameter, parameter.requires_grad) for parameter in model.model.parameters()]
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        try:
            for parameter, _ in wanted:
                parameter.requires_grad_(False)
            yield
        finally:
            for parameter, before in wanted:
                parameter.requires_grad_(before)
