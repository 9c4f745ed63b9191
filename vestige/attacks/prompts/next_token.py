"""What a model would say next, batch by batch: a whole vocabulary per prompt is too much to keep for all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from hooked import HookedModel


@torch.no_grad()
def next_token_log_probs(
    model: HookedModel, prompts: Sequence[str], *, batch_size: int
) -> Iterator[tuple[slice, Tensor]]:
    """Yield which prompts a batch has, and the log-probabilities `[batch, d_vocab]` after them, float64, nats."""
    for start in range(0, len(prompts), batch_size):
        rows = slice(start, min(start + batch_size, len(prompts)))
        batch = model.tokenize(prompts[rows], padding_side="left")
        yield rows, model.logits(batch)[:, -1].double().log_softmax(-1).cpu()
