"""Putting text around a question so that the prompt still ends as the data's prompts do, and still fits the model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hooked import HookedModel, Item
from hooked.text import join

# A name and a colon, as in "Question: ..." and "... Answer:", or a heading, as in "... ### Response:".
_HEAD = re.compile(r"\s*(?:#+\s*)?\w+:\s+")
_CUE = re.compile(r"\s+(?:#+\s*)?\w+:\s*$")
SEPARATOR = "\n\n"


@dataclass(frozen=True)
class Form:
    """A prompt in three pieces; both ends are empty where the prompt is a text to be continued.

    Args:
        head: What announces the question, e.g. `Question: `.
        body: The question itself.
        cue: What calls for the answer, e.g. `\\nAnswer:`.
    """

    head: str
    body: str
    cue: str

    def ask(self, body: str) -> str:
        """Return the prompt of another question in the same form."""
        return f"{self.head}{body}{self.cue}"


def form_of(prompt: str) -> Form:
    """Split a prompt at the words with a colon that it begins and ends with; other marks of turns are left in it."""
    cue = _CUE.search(prompt)
    rest = prompt[: cue.start()] if cue else prompt
    head = _HEAD.match(rest) if cue else None
    at = head.end() if head else 0
    return Form(rest[:at], rest[at:], prompt[len(rest) :])


def about(item: Item) -> str:
    """Return the name of what a fact is about, or a phrase where the item gives none."""
    return item.subject or item.concept or "the matter in question"


def in_front(
    model: HookedModel,
    item: Item,
    parts: Sequence[str],
    *,
    separator: str = SEPARATOR,
    room: int = 0,
) -> tuple[Item, int]:
    """Put texts in front of a prompt, as many of the last ones as the model has positions for.

    Args:
        model: Its tokenizer and number of positions count; without a limit everything stays.
        item: Whose prompt it is.
        parts: Texts, dropped whole and from the left.
        separator: Between two texts, and before the prompt.
        room: Positions kept free for what is generated.

    Returns:
        The item with its new prompt, and how many texts were dropped.
    """

    def framed(dropped: int) -> Item:
        return replace(item, prompt=separator.join([*parts[dropped:], item.prompt]))

    def fits(dropped: int) -> bool:
        prompt = framed(dropped).prompt
        texts = [prompt] if room or not item.answer else [join(prompt, item.answer)]
        return limit is None or int(model.tokenize(texts).ids.shape[1]) + room <= limit

    limit: int | None = getattr(model.config, "max_position_embeddings", None)
    if not parts or fits(0):
        return framed(0), 0
    # The fewest that must go: a prompt with none of them is what the data ask anyway.
    low, high = 0, len(parts)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return framed(high), high


def all_in_front(
    model: HookedModel, items: Sequence[Item], parts: Sequence[Sequence[str]], *, separator: str = SEPARATOR
) -> tuple[tuple[Item, ...], int, str]:
    """Put every item's texts in front of its prompt.

    Returns:
        The items with their new prompts, how many texts were dropped in all, and a note that says so (empty if none).
    """
    pairs = [in_front(model, item, own, separator=separator) for item, own in zip(items, parts, strict=True)]
    dropped = sum(count for _, count in pairs)
    given = sum(len(own) for own in parts)
    note = f"{dropped} of {given} texts in front of the prompts had no room and were left out" if dropped else ""
    return tuple(item for item, _ in pairs), dropped, note


def fitted(model: HookedModel, items: Sequence[Item], *, room: int = 0) -> tuple[tuple[Item, ...], str]:
    """Take words from the beginning of prompts that do not fit the model; at least one stays.

    Args:
        model: Its tokenizer and number of positions count.
        items: With prompts that an attack has made longer than the data's.
        room: Positions kept free for what is generated.

    Returns:
        The items, and a note of how many lost words (empty if none).
    """
    words = [item.prompt.split(" ") for item in items]
    last = [replace(item, prompt=own[-1]) for item, own in zip(items, words, strict=True)]
    pairs = [in_front(model, item, own[:-1], separator=" ", room=room) for item, own in zip(last, words, strict=True)]
    cut = sum(dropped > 0 for _, dropped in pairs)
    return tuple(
        item for item, _ in pairs
    ), f"{cut} prompts had no room and lost words at their beginning" if cut else ""


def noted(*notes: str) -> str:
    """Join the notes that say something."""
    return "; ".join(filter(None, notes))
