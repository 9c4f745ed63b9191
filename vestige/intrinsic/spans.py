"""Where in a text an answer is predicted: the positions whose hidden states are read and patched."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from hooked import HookedModel, Item, TokenBatch, VestigeError
from hooked.text import encode, join
from hooked.tokens import pad_rows


@dataclass(frozen=True, eq=False)
class Rows:
    """Some texts as one batch, and the places of theirs.

    Args:
        batch: The texts, padded on the right.
        items: Which items they are.
        row: Row of each place.
        column: Column of each place; columns count real tokens, since padding comes last.
        target: The token that follows it.
        at: Number of the place among all places of the spans.
    """

    batch: TokenBatch
    items: tuple[int, ...]
    row: Int[Tensor, " n_places"]
    column: Int[Tensor, " n_places"]
    target: Int[Tensor, " n_places"]
    at: Int[Tensor, " n_places"]


@dataclass(frozen=True)
class Spans:
    """Prompts with their answers, tokenised once for all subjects, and where the answers are predicted.

    Args:
        ids: Tokens of prompt and answer, without padding.
        answer: Which of them belong to the answer; what gates and prompt edits see.
        places: Positions whose next token is part of what is asked for; none for an item that is left out.
    """

    ids: tuple[tuple[int, ...], ...]
    answer: tuple[tuple[bool, ...], ...]
    places: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def n_places(self) -> int:
        """Number of places of all items together."""
        return sum(map(len, self.places))

    @property
    def owner(self) -> Int[Tensor, " n_places"]:
        """Item of each place."""
        return torch.tensor([n for n, own in enumerate(self.places) for _ in own], dtype=torch.long)

    def batches(self, batch_size: int) -> Iterator[Rows]:
        """Yield the items that have places, texts of similar length together."""
        starts = [0]
        for own in self.places:
            starts.append(starts[-1] + len(own))
        order = sorted((n for n in range(len(self)) if self.places[n]), key=lambda n: len(self.ids[n]))
        for first in range(0, len(order), batch_size):
            items = order[first : first + batch_size]
            flat = [
                (row, place, self.ids[n][place + 1], starts[n] + k)
                for row, n in enumerate(items)
                for k, place in enumerate(self.places[n])
            ]
            row, column, target, at = torch.tensor(flat, dtype=torch.long).T
            batch = pad_rows([self.ids[n] for n in items], [self.answer[n] for n in items], pad=0, padding_side="right")
            yield Rows(batch, tuple(items), row, column, target, at)


def answer_spans(model: HookedModel, items: Sequence[Item], *, entities: Sequence[str] | None = None) -> Spans:
    """Find the places at which the answers of items are predicted.

    By default all tokens of an answer are asked for, except those that repeat the subject's name where the prompt names
    it already. Prompt and answer are tokenised as one text, as everywhere in Vestige.

    Args:
        model: Whose tokenizer is used.
        items: Items with answers.
        entities: The part of each answer that states the fact; an item whose answer does not hold it is left out.
            A tokenizer without character offsets takes the whole answer instead.

    Raises:
        VestigeError: Another number of entities than items, or an item without an answer.
    """
    if entities is not None and len(entities) != len(items):
        raise VestigeError(f"one entity per item is needed, got {len(entities)} for {len(items)} items")
    bare = next((n for n, item in enumerate(items) if item.generation_only), None)
    if bare is not None:
        raise VestigeError(f"item {bare} ({items[bare].prompt[:40]!r}) has no answer whose tokens could be patched")
    made = [_span(model, item, None if entities is None else entities[n]) for n, item in enumerate(items)]
    return Spans(*(tuple(part) for part in zip(*made, strict=True))) if made else Spans((), (), ())


def _span(
    model: HookedModel, item: Item, entity: str | None
) -> tuple[tuple[int, ...], tuple[bool, ...], tuple[int, ...]]:
    tokenizer: Any = model.tokenizer
    ((ids, flags),) = encode(tokenizer, [item.prompt], [item.answer], prepend_bos=model.default_prepend_bos)
    text = join(item.prompt, item.answer)
    begin = len(text) - len(item.answer)
    asked = _stated(item, begin) if entity is None else mentions(entity, item.answer, begin)
    chosen = flags
    if asked != [(begin, len(text))] and (asked or entity is not None):
        offsets = offsets_of(tokenizer, text)
        special = len(ids) - len(offsets) if offsets is not None else 0
        if offsets is not None:
            inside = [any(a < end and start < b for a, b in asked) for start, end in offsets]
            chosen = [own and hit for own, hit in zip(flags, [False] * special + inside, strict=True)]
        elif not asked:
            chosen = [False] * len(ids)
    return tuple(ids), tuple(flags), tuple(n - 1 for n, hit in enumerate(chosen) if hit and n)


def _stated(item: Item, begin: int) -> list[tuple[int, int]]:
    """Return the parts of the answer that are not the subject's name again; the whole where nothing else is left."""
    whole = [(begin, begin + len(item.answer))]
    if not item.subject or not mentions(item.subject, item.prompt, 0):
        return whole
    named = mentions(item.subject, item.answer, begin)
    edges = [begin, *(edge for mention in named for edge in mention), begin + len(item.answer)]
    rest = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if a < b]
    words = any(any(c.isalnum() for c in item.answer[a - begin : b - begin]) for a, b in rest)
    return rest if words else whole


def mentions(phrase: str, text: str, shift: int) -> list[tuple[int, int]]:
    found = re.finditer(rf"(?<!\w){re.escape(phrase.strip())}(?!\w)", text, re.IGNORECASE) if phrase.strip() else ()
    return [(shift + one.start(), shift + one.end()) for one in found]


def offsets_of(tokenizer: Any, text: str) -> list[tuple[int, int]] | None:
    if not tokenizer.is_fast:
        return None
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    return list(encoded["offset_mapping"])
