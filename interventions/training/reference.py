"""What the frozen original says of the forget answers: run once, kept as one number per item."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hooked import HookedModel, Item
from interventions.batches import encoded
from interventions.evaluating import evaluating
from interventions.training.losses import AnswerNLL, answer_nll


@torch.no_grad()
def reference_nll(model: HookedModel, items: Sequence[Item], *, batch_size: int = 16) -> AnswerNLL:
    """Score the answers of items in their order; look a minibatch up with `[batch.rows]`.

    Args:
        model: The original.
        items: Those with an answer, as `split_of(..., answered=True)` gives them.
        batch_size: Items per pass.
    """
    batches = encoded(model, items, batch_size=batch_size)
    with evaluating(model):
        scored = [answer_nll(model.logits(batch), batch.ids, batch.answer) for batch in batches]
    return AnswerNLL(torch.cat([s.total for s in scored]), torch.cat([s.count for s in scored]))
