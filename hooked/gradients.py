"""Activations together with the gradient of a scalar of the logits at them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hooked.cache import ActivationCache
from hooked.capture import NamesFilter, select_sites
from hooked.errors import VestigeError
from hooked.forward import first_chunk, run
from hooked.hooks import HookContext
from hooked.tokens import TokenBatch

if TYPE_CHECKING:
    from hooked.model import HookedModel


def gradients(
    model: HookedModel, batch: TokenBatch, metric: Callable[[Tensor], Tensor], *, names_filter: NamesFilter
) -> tuple[Tensor, ActivationCache, ActivationCache]:
    """Differentiate a metric at some sites; `HookedModel.gradients` documents it."""
    if not torch.is_grad_enabled():
        raise VestigeError("gradients need grad mode; leave torch.no_grad() or call torch.set_grad_enabled(True)")
    names = select_sites(model.site_map, names_filter, stop_at_layer=None)
    live: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: HookContext) -> Tensor:
        # The pass continues from this tensor, so that the metric depends on it even where no parameter needs a
        # gradient.
        live[hook.name] = activation if activation.requires_grad else activation.detach().requires_grad_()
        return live[hook.name]

    output = run(model, first_chunk(batch), fwd_hooks=[(name, keep) for name in names])
    value = metric(model._logits(output))
    if value.numel() != 1 or not value.requires_grad:
        raise VestigeError(
            f"the metric must be one number computed from the logits, got shape {tuple(value.shape)}"
            + ("" if value.requires_grad else " without a gradient")
        )
    found = torch.autograd.grad(value.sum(), [live[name] for name in names], allow_unused=True)
    unused = next((name for name, grad in zip(names, found, strict=True) if grad is None), None)
    if unused is not None:
        raise VestigeError(f"the metric does not depend on '{unused}', so it has no gradient there")
    return (
        value.detach(),
        ActivationCache({name: live[name].detach().clone() for name in names}, model.site_map),
        ActivationCache({n: g.clone() for n, g in zip(names, found, strict=True) if g is not None}, model.site_map),
    )
