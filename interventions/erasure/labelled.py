"""Activations of forget and of retain text at one site: what linear erasure is fitted on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Item, TokenBatch, VestigeError
from interventions.batches import encoded
from interventions.evaluating import evaluating
from interventions.key_box import as_prompts
from interventions.training.activations import spoken

Positions = Literal["last", "all"]


def rows_at(
    model: HookedModel, items: Sequence[Item], site: str, *, positions: Positions, batch_size: int
) -> Iterator[Float[Tensor, "n d"]]:
    """Return the activations of items at a site, batch by batch, float64 on the CPU.

    Args:
        model: Not changed.
        items: Text to run.
        site: Where activations are read; one vector per token.
        positions: `last` reads the last prompt token of each item (of a document its end), `all` every real token of
            prompt and answer but the BOS, whose activation says nothing of the text and is often huge.
        batch_size: Items per forward pass.

    Raises:
        VestigeError: `positions` is unknown, or the site holds no vector per token.
    """
    if positions not in get_args(Positions):
        raise VestigeError(f"positions is 'last' or 'all', got {positions!r}")
    shown = as_prompts(items) if positions == "last" else items
    return _rows(model, encoded(model, shown, batch_size=batch_size), site, last=positions == "last")


@torch.no_grad()
def _rows(
    model: HookedModel, batches: Iterator[TokenBatch], site: str, *, last: bool
) -> Iterator[Float[Tensor, "n d"]]:
    for batch in batches:
        with evaluating(model):
            acts = model.run_with_cache(batch, names_filter=site, return_type=None)[1][site]
        if acts.ndim != 3:
            raise VestigeError(
                f"linear erasure needs one vector per token, and '{site}' holds {tuple(acts.shape[2:])} per token; "
                "use a site of the residual stream, 'attn_out', 'mlp_out' or 'mlp_post'"
            )
        kept = torch.zeros_like(batch.mask)
        if last:
            kept[torch.arange(len(batch)), batch.last] = True
        else:
            kept = spoken(model, batch)
        yield acts[kept.to(acts.device)].double().cpu()
