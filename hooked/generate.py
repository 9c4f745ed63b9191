"""Batched decoding with a KV cache and every edit in force."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hooked.errors import VestigeError
from hooked.forward import Chunk, first_chunk, run
from hooked.hooks import Request
from hooked.tokens import TokenBatch

if TYPE_CHECKING:
    from hooked.model import HookedModel


@dataclass(frozen=True)
class Decoding:
    """How a continuation is chosen; `HookedModel.generate` documents the fields."""

    max_new_tokens: int = 32
    do_sample: bool = False
    temperature: float = 1.0
    seed: int = 0
    use_cache: bool = True
    stop_at_eos: bool = True
    batch_size: int = 64
    prepend_bos: bool | None = None

    def __post_init__(self) -> None:
        if self.max_new_tokens < 0:
            raise VestigeError(f"max_new_tokens is at least 0, got {self.max_new_tokens}")
        if self.batch_size < 1:
            raise VestigeError(f"batch_size is at least 1, got {self.batch_size}")
        if self.do_sample and not 0 < self.temperature < float("inf"):
            raise VestigeError(
                f"temperature is above 0, got {self.temperature}; leave do_sample off for greedy decoding"
            )


def generate_tokens(
    model: HookedModel, prompts: str | Sequence[str] | TokenBatch, settings: Decoding
) -> list[list[int]]:
    """Continue prompts and return the new ids, one list per prompt."""
    given = [prompts] if isinstance(prompts, str) else prompts
    rows: list[list[int]] = []
    for start in range(0, len(given), settings.batch_size):
        batch = model.as_batch(given[start : start + settings.batch_size], prepend_bos=settings.prepend_bos)
        rows += decode(model, batch, settings, first_row=start)
    return rows


@torch.no_grad()
def decode(model: HookedModel, batch: TokenBatch, settings: Decoding, *, first_row: int = 0) -> list[list[int]]:
    """Continue a left-padded batch.

    Args:
        model: A model or a view.
        batch: Prompts; a row may not end in padding.
        settings: How tokens are chosen.
        first_row: Number of the first row in the whole call, so that a sample does not depend on the batch size.

    Returns:
        New ids of each row, without the EOS that ended it.
    """
    if not bool(batch.mask[:, -1].all()):
        raise VestigeError(
            "decoding continues the last column, so prompts are padded on the left; tokenize with padding_side='left'"
        )
    ends = _end_tokens(model) if settings.stop_at_eos else frozenset()
    generators = [_generator(settings.seed, first_row + i) for i in range(len(batch))]
    rows: list[list[int]] = [[] for _ in range(len(batch))]
    alive = [True] * len(batch)
    whole, chunk = batch, first_chunk(batch, use_cache=settings.use_cache)
    for step in range(settings.max_new_tokens):
        output = run(model, chunk)
        logits = model._logits(output)[:, -1].float()
        tokens = _sampled(logits, settings.temperature, generators) if settings.do_sample else logits.argmax(-1)
        for i, token in enumerate(tokens.tolist()):
            alive[i] = alive[i] and token not in ends
            if alive[i]:
                rows[i].append(token)
        if not any(alive) or step == settings.max_new_tokens - 1:
            break
        whole = _extended(whole, tokens.to(whole.ids.device))
        past = getattr(output.native, "past_key_values", None) if settings.use_cache else None
        chunk = _next_chunk(whole, past, chunk.request, use_cache=settings.use_cache)
    return rows


def _next_chunk(whole: TokenBatch, past: Any, before: Request, *, use_cache: bool) -> Chunk:
    if past is None:
        # The whole text runs again, so state starts over; what a gate decided on the prompt stands.
        again = first_chunk(whole, use_cache=use_cache)
        again.request.decided = before.decided
        return again
    # What an edit may call prompt was fixed before the first step; what is added later is answer.
    new = TokenBatch(whole.ids[:, -1:], whole.mask[:, -1:], whole.answer[:, -1:])
    offset = whole.ids.shape[1] - 1
    request = Request(new.mask, new.prompt, new.mask, offset, new.ids, before.state, before.decided, use_cache)
    return Chunk(new, request, past, whole.mask if whole.padded else None, use_cache)


def _extended(batch: TokenBatch, tokens: Tensor) -> TokenBatch:
    column = tokens[:, None]
    true = torch.ones_like(column, dtype=torch.bool)
    return TokenBatch(
        torch.cat([batch.ids, column], 1), torch.cat([batch.mask, true], 1), torch.cat([batch.answer, true], 1)
    )


def _generator(seed: int, row: int) -> torch.Generator:
    # A CPU generator looks at the low 32 bits of its seed only, so those have to depend on both numbers.
    digest = hashlib.sha256(f"{seed}/{row}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "big"))


def _sampled(logits: Tensor, temperature: float, generators: Sequence[torch.Generator]) -> Tensor:
    probabilities = torch.softmax(logits / temperature, -1).cpu()
    if not bool(torch.isfinite(probabilities).all()):
        raise VestigeError("the logits hold NaN or infinity, so there is nothing to sample from")
    draws = [torch.multinomial(row, 1, generator=g) for row, g in zip(probabilities, generators, strict=True)]
    return torch.cat(draws).to(logits.device)


def _end_tokens(model: HookedModel) -> frozenset[int]:
    """Return the ids that end a row: the tokenizer's EOS and those of the generation config (chat models have more)."""
    named = getattr(getattr(model.model, "generation_config", None), "eos_token_id", None)
    ids = [*(named if isinstance(named, list | tuple) else [named]), getattr(model.tokenizer, "eos_token_id", None)]
    return frozenset(int(i) for i in ids if i is not None)
