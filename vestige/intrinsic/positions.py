"""Named positions of a question, the same for any data: the subject's tokens, where the answer is predicted, the rest.

The name of a position says what a map of causes can be read by; which columns of a text it covers differs by item.
"""

from __future__ import annotations

from collections.abc import Sequence

from hooked import HookedModel, Item, VestigeError
from hooked.text import join
from vestige.intrinsic.spans import Spans, mentions, offsets_of

POSITIONS = ("first", "between", "last", "rest", "answer")

# Columns of one text, in the order of `POSITIONS`; empty where it has no such position.
Columns = tuple[tuple[int, ...], ...]


def columns_of(model: HookedModel, items: Sequence[Item], spans: Spans) -> tuple[Columns, ...]:
    """Return which columns of every item's text each of `POSITIONS` covers; no column has two names.

    `answer` are the places of the spans, at which the answer is predicted: for a short answer the last prompt token.
    `first`, `between` and `last` are tokens of the subject's name in the prompt, all mentions together; a name of one
    token is its own `last`. `rest` is what else lies before the last place, without the BOS token, which knows nothing
    of the question. Without a subject, or a tokenizer with character offsets, the whole question is `rest`.

    Raises:
        VestigeError: Another number of items than the spans have.
    """
    if len(items) != len(spans):
        raise VestigeError(f"positions need the items of the spans, got {len(items)} items for {len(spans)} spans")
    return tuple(
        _columns(model, item, ids, places) for item, ids, places in zip(items, spans.ids, spans.places, strict=True)
    )


def _columns(model: HookedModel, item: Item, ids: Sequence[int], places: Sequence[int]) -> Columns:
    if not places:
        return ((),) * len(POSITIONS)
    text = join(item.prompt, item.answer)
    offsets = offsets_of(model.tokenizer, text)
    begin = len(ids) - len(offsets) if offsets is not None else int(model.default_prepend_bos)
    taken = dict.fromkeys(places, "answer")
    for start, end in mentions(item.subject, item.prompt, 0) if item.subject and offsets is not None else ():
        name = [begin + n for n, (a, b) in enumerate(offsets or ()) if a < end and start < b]
        for column in name:
            part = "last" if column == name[-1] else "first" if column == name[0] else "between"
            taken.setdefault(column, part)
    for column in range(begin, places[-1]):
        taken.setdefault(column, "rest")
    return tuple(tuple(sorted(c for c, own in taken.items() if own == part)) for part in POSITIONS)
