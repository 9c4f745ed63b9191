"""What a gate may look at: the prompt of each row, without its padding and its answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool
from torch import Tensor

from hooked import HookedModel, Item, Request, TokenBatch
from interventions.batches import encoded
from interventions.key_box import as_prompts


def prompts_of(request: Request) -> tuple[TokenBatch, Bool[Tensor, " batch"]]:
    """Return the prompts of a request as a batch, and which rows have one.

    Answer tokens count as padding, so that scoring a prompt with its answer shows a gate what decoding shows it. A row
    that is all answer is represented by its first token, since a model needs one.
    """
    asked = request.prompt.any(-1)
    first = torch.zeros_like(request.mask)
    first[torch.arange(len(first)), request.mask.long().argmax(-1)] = True
    shown = torch.where(asked[:, None], request.prompt, first)
    columns = shown.any(0)
    ids, mask = request.ids[:, columns], shown[:, columns]
    return TokenBatch(ids, mask, torch.zeros_like(mask)), asked


def prompt_batches(model: HookedModel, items: Sequence[Item], *, batch_size: int) -> Iterator[TokenBatch]:
    """Yield the prompts of items as a gate will meet them; of a document its whole text."""
    return encoded(model, as_prompts(items), batch_size=batch_size)
