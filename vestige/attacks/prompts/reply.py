"""Scoring an answer inside a reply that has been begun for the model."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Item
from hooked.text import join


@torch.no_grad()
def probability_in_reply(
    model: HookedModel, items: Sequence[Item], begun: Sequence[str], *, batch_size: int
) -> Float[Tensor, " n"]:
    """Return each answer's length-normalised probability after its prompt and the beginning of a reply, float64.

    The beginning counts as reply: what looks at prompts, such as a gate or a corruption of prompt embeddings, does not
    see it. Behind the prompt instead (`answer_probability`), it would.
    """
    found = []
    for start in range(0, len(items), batch_size):
        part = list(zip(items[start : start + batch_size], begun[start : start + batch_size], strict=True))
        batch = model.tokenize([item.prompt for item, _ in part], answers=[join(b, item.answer) for item, b in part])
        # The same text with another boundary, so the same ids.
        ends = model.tokenize([join(item.prompt, b) for item, b in part], answers=[item.answer for item, _ in part])
        scored = ends.answer[:, 1:]
        logits = model.logits(batch)[:, :-1].double()
        log_p = logits.log_softmax(-1).gather(-1, batch.ids[:, 1:, None])[..., 0]
        found.append((torch.where(scored, log_p, 0).sum(-1) / scored.sum(-1)).exp().cpu())
    return torch.cat(found)
