"""Batched decoding with a KV cache and every edit in force."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hooked.errors import VestigeError
from hooked.tokens import TokenBatch

if TYPE_CHECKING:
    from hooked.model import HookedModel


@torch.no_grad()
def decode(
    model: HookedModel,
    batch: TokenBatch,
    *,
    max_new_tokens: int,
    temperature: float,
    generator: torch.Generator | None,
    eos: int | None,
    use_cache: bool,
) -> list[list[int]]:
    """Continue a left-padded batch.

    Args:
        model: A model or a view.
        batch: Prompts; a row may not end in padding.
        max_new_tokens: Most tokens that are added.
        temperature: Divides the logits when sampling.
        generator: Draws the samples; None decodes greedily.
        eos: Id that ends a row; it is not part of the result.
        use_cache: Off recomputes every prefix.

    Returns:
        New ids of each row.
    """
    if max_new_tokens < 0:
        raise VestigeError(f"max_new_tokens is at least 0, got {max_new_tokens}")
    if batch.padding_side == "right":
        raise VestigeError("decoding continues the last column, so prompts are padded on the left; tokenize with padding_side='left'")
    rows: list[list[int]] = [[] for _ in range(len(batch))]
    alive = [True] * len(batch)
    state: dict[Any, Any] = {}
    # What an edit may call prompt is fixed before the first step; what is added later is answer.
    whole, past, chunk = batch, None, batch
    for step in range(max_new_tokens):
        offset = 0 if past is None else whole.ids.shape[1] - chunk.ids.shape[1]
        request = model._request(chunk, offset=offset, state=state, step=None if offset == 0 else chunk.mask)
        output = model._pass(
            chunk, request, past=past, history=whole.mask if past is not None and whole.padded else None, use_cache=use_cache
        )
        tokens = _pick(model._logits(output)[:, -1].float(), temperature, generator)
        for i, token in enumerate(tokens.tolist()):
            alive[i] = alive[i] and token != eos
            if alive[i]:
                rows[i].append(token)
        if not any(alive) or step == max_new_tokens - 1:
            break
        whole = _extended(whole, tokens)
        past = getattr(output.native, "past_key_values", None) if use_cache else None
        chunk = TokenBatch(tokens[:, None], torch.ones_like(tokens[:, None], dtype=torch.bool), torch.ones_like(tokens[:, None], dtype=torch.bool))
        if past is None:
            chunk, state = whole, {}
    return rows


def _extended(batch: TokenBatch, tokens: Tensor) -> TokenBatch:
    column = tokens[:, None]
    true = torch.ones_like(column, dtype=torch.bool)
    return TokenBatch(torch.cat([batch.ids, column], 1), torch.cat([batch.mask, true], 1), torch.cat([batch.answer, true], 1))


def _pick(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    if generator is None:
        return logits.argmax(-1)
    if temperature <= 0:
        raise VestigeError(f"temperature is above 0, got {temperature}; leave do_sample off for greedy decoding")
    probabilities = torch.softmax(logits / temperature, -1).cpu()
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0].to(logits.device)
