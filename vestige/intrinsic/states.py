"""Hidden states at the places where answers are predicted, and nowhere else."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookContext, HookedModel, VestigeError
from hooked.hooks import Edit
from vestige.intrinsic.spans import Rows, Spans

States = Float[Tensor, "n_layers n_places d_model"]


@torch.no_grad()
def read_states(model: HookedModel, spans: Spans, *, batch_size: int = 32) -> States:
    """Return the residual stream after every block at the places of some spans, on the CPU, in the model's precision.

    Args:
        model: A model or a view, whose edits are seen.
        spans: Made by `answer_spans`.
        batch_size: Texts per forward pass.

    Raises:
        VestigeError: No item has a place, or the states are not finite.
    """
    sites = [f"blocks.{layer}.hook_resid_post" for layer in range(model.n_layers)]
    parts: list[list[Tensor]] = [[] for _ in sites]
    order: list[Tensor] = []
    for rows in spans.batches(batch_size):
        kept: dict[str, Tensor] = {}
        keep = _keeper(kept, rows)
        model.run_with_hooks(
            rows.batch.to(model.device), fwd_hooks=[(site, keep) for site in sites], stop_at_layer=model.n_layers
        )
        for part, site in zip(parts, sites, strict=True):
            part.append(kept[site])
        order.append(rows.at)
    if not order:
        raise VestigeError("no item has a place at which its answer is predicted, so no state can be read")
    states = torch.stack([torch.cat(part) for part in parts])[:, torch.cat(order).argsort()]
    if not bool(torch.isfinite(states).all()):
        layer = int((~torch.isfinite(states)).flatten(1).any(-1).nonzero()[0])
        raise VestigeError(f"the residual stream after block {layer} holds NaN or infinity; the model has diverged")
    return states


def _keeper(kept: dict[str, Tensor], rows: Rows) -> Edit:
    def keep(activation: Tensor, hook: HookContext) -> None:
        row, column = rows.row.to(activation.device), rows.column.to(activation.device)
        kept[hook.name] = activation[row, column].cpu()

    return keep
