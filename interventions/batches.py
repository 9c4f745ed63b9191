"""From the items of a split to token batches that fit the model."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import inf

import torch

from hooked import HookedModel, Item, TokenBatch, UnlearnData, VestigeError


def split_of(data: UnlearnData, split: str, *, method: str, answered: bool = False) -> tuple[Item, ...]:
    """Return the items of a split that a method needs.

    Args:
        data: The task.
        split: `forget` or `retain`.
        method: Who asks, for the message.
        answered: Leave out items without an answer to score.

    Raises:
        VestigeError: Nothing is left.
    """
    items: tuple[Item, ...] = getattr(data, split)
    if not items:
        raise VestigeError(
            f"{method} needs {split} items and data.{split} is empty; give them to load_data({split}=...)"
        )
    kept = tuple(item for item in items if not (answered and item.generation_only))
    if not kept:
        raise VestigeError(f"{method} needs {split} items with an answer, and none of the {len(items)} has one")
    return kept


def encode(model: HookedModel, items: Sequence[Item]) -> TokenBatch:
    """Tokenise prompts with their answers, padded on the right and cut after the last position the model has.

    The first token of a row is no answer, since nothing predicts it: without a BOS, a document loses it.

    Raises:
        VestigeError: A prompt alone is as long as the model's context, so that nothing of its answer is left, or a
            document is one token without a BOS.
    """
    batch = model.tokenize(
        [item.prompt for item in items], answers=[item.answer for item in items], padding_side="right"
    )
    predicted = batch.answer & (torch.arange(batch.ids.shape[1], device=batch.ids.device) > 0)
    single = (batch.answer.any(-1) & ~predicted.any(-1)).nonzero().flatten().tolist()
    if single:
        raise VestigeError(
            f"the text {items[single[0]].text[:40]!r} is one token without a BOS in front, so nothing predicts it; "
            "leave it out"
        )
    batch, limit = replace(batch, answer=predicted), _positions(model)
    if batch.ids.shape[1] <= limit:
        return batch
    cut = TokenBatch(batch.ids[:, :limit], batch.mask[:, :limit], batch.answer[:, :limit])
    lost = (batch.answer.any(-1) & ~cut.answer.any(-1)).nonzero().flatten().tolist()
    if lost:
        start = items[lost[0]].prompt[:40]
        raise VestigeError(
            f"the prompt {start!r}... fills the model's {limit} positions, so no answer fits after it; shorten it"
        )
    return cut


def encoded(model: HookedModel, items: Sequence[Item], *, batch_size: int) -> Iterator[TokenBatch]:
    """Yield all items in order, `batch_size` at a time."""
    if batch_size < 1:
        raise VestigeError(f"batch_size is at least 1, got {batch_size}")
    for start in range(0, len(items), batch_size):
        yield encode(model, items[start : start + batch_size])


def warn_of_cuts(model: HookedModel, items: Sequence[Item], *, method: str) -> None:
    """Warn if items are longer than the model's context, so that `encode` cuts them."""
    limit = _positions(model)
    # No tokenizer has tokens shorter than a byte; 2 for what it may put around them.
    long = [item for item in items if len(item.text.encode()) + 2 > limit]
    cut = sum(model.tokenize(item.prompt, answers=[item.answer]).ids.shape[1] > limit for item in long)
    if cut:
        warnings.warn(
            f"{cut} of {len(items)} items are longer than the model's {limit} positions, and {method} does not train "
            "on what comes after; split them",
            UserWarning,
            stacklevel=2,
        )


def _positions(model: HookedModel) -> float:
    limit = getattr(model.config, "max_position_embeddings", None)
    return inf if limit is None else limit
