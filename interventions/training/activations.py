"""Activations of a copy in training, with the graph behind them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from hooked import HookContext, HookedModel, TokenBatch, VestigeError
from interventions.training.descent import Minibatch


def residuals(model: HookedModel, batch: TokenBatch, blocks: Sequence[int]) -> dict[int, Tensor]:
    """Run a model up to the last of some blocks and return the residual stream after each, `[batch, pos, d_model]`.

    Gradients pass through where the caller's grad mode lets them.

    Args:
        model: The copy in training, or the original.
        batch: Tokens.
        blocks: At least one, counted from 0.
    """
    found: dict[int, Tensor] = {}

    def keep(activation: Tensor, /, hook: HookContext) -> None:
        found[hook.layer()] = activation

    sites = [f"blocks.{block}.hook_resid_post" for block in blocks]
    model.run_with_hooks(batch, fwd_hooks=[(site, keep) for site in sites], stop_at_layer=max(blocks) + 1)
    return found


def retain_batch(batch: Minibatch) -> TokenBatch:
    """Return the retain tokens of a minibatch.

    Raises:
        VestigeError: The data has no retain items with an answer.
    """
    if batch.retain is None:
        raise VestigeError("this loss needs retain items with an answer; give them to load_data(retain=...)")
    return batch.retain
