"""How likely a model finds the answers while the states of another one stand in its residual stream."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookContext, HookedModel, VestigeError
from hooked.forward import FwdHooks
from hooked.hooks import Edit
from vestige.intrinsic.lens_depth import item_means, target_log_probs
from vestige.intrinsic.spans import Rows, Spans
from vestige.intrinsic.states import States


@torch.no_grad()
def plain_log_probs(model: HookedModel, spans: Spans, *, batch_size: int = 32) -> Float[np.ndarray, " n_items"]:
    """Return the mean log-probability of the asked tokens of every item, nats; NaN for items that have no place."""
    return answer_log_probs(model, spans, lambda rows: (), batch_size)


@torch.no_grad()
def patched_log_probs(
    model: HookedModel, spans: Spans, states: States, *, batch_size: int = 32
) -> Float[np.ndarray, "n_layers n_items"]:
    """Return the same with one block's output replaced by given states, at the places alone, for every block.

    Every other position keeps its own states, and what lies above the block computes with both. Read the states with
    the same batch size: a model's own states then change nothing, to the last bit.

    Args:
        model: Into which is patched: one that is whole, with no other intervention in force.
        spans: Where.
        states: What `read_states` returned for the same spans.
        batch_size: Texts per forward pass; there is one pass per block and batch.

    Raises:
        VestigeError: The states are those of a model with other blocks or another width, or of other spans.
    """
    needed = (model.n_layers, spans.n_places, model.d_model)
    if tuple(states.shape) != needed:
        raise VestigeError(
            f"states of shape {tuple(states.shape)} cannot be patched here: [n_layers, n_places, d_model] is {needed}; "
            "source and target share one architecture, and the spans"
        )

    def at_block(layer: int) -> Float[np.ndarray, " n_items"]:
        def hooks(rows: Rows) -> FwdHooks:
            return [(f"blocks.{layer}.hook_resid_post", _patch(states[layer, rows.at], rows))]

        return answer_log_probs(model, spans, hooks, batch_size)

    return np.stack([at_block(layer) for layer in range(model.n_layers)])


def answer_log_probs(
    model: HookedModel, spans: Spans, hooks: Callable[[Rows], FwdHooks], batch_size: int
) -> Float[np.ndarray, " n_items"]:
    found = torch.empty(spans.n_places, dtype=torch.float64)
    for rows in spans.batches(batch_size):
        # Up to the last block, and decoded at the places alone: logits of whole texts would not fit large vocabularies.
        resid = model.run_with_hooks(rows.batch.to(model.device), fwd_hooks=hooks(rows), stop_at_layer=model.n_layers)
        at_places = resid[rows.row.to(resid.device), rows.column.to(resid.device)]
        found[rows.at] = target_log_probs(model.decoder, at_places, rows.target)
    return item_means(spans, found)


def _patch(values: Float[Tensor, "n_places d_model"], rows: Rows) -> Edit:
    def patch(activation: Tensor, hook: HookContext) -> Tensor:
        changed = activation.clone()
        row, column = rows.row.to(activation.device), rows.column.to(activation.device)
        changed[row, column] = values.to(activation)
        return changed

    return patch
