"""Activations of a copy in training, with the graph behind them."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Bool
from torch import Tensor

from hooked import HookContext, HookedModel, TokenBatch


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


def spoken(model: HookedModel, batch: TokenBatch) -> Bool[Tensor, "batch pos"]:
    """Mark the real tokens but the BOS, whose activation says nothing of the text and is often huge."""
    bos = getattr(model.tokenizer, "bos_token_id", None)
    return batch.mask if bos is None else batch.mask & (batch.ids != bos)
