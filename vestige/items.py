"""What an audit asks: items with a prompt, an answer and wrong answers, made from whatever the user brought."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from hooked import Item, UnlearnData, VestigeError

WRONG_ANSWERS = 5


def audit_items(data: UnlearnData, *, max_items: int, seed: int) -> UnlearnData:
    """Prepare data for an audit.

    Documents become completions (`as_completion`), items without wrong answers get some from other items (`with_wrong_answers`), questions
    without an answer are left out, and each split keeps at most `max_items`, drawn with the seed.

    Raises:
        VestigeError: No forget item has an answer to score.
    """
    splits: dict[str, tuple[Item, ...]] = {}
    for split in ("forget", "retain", "holdout", "control"):
        items = [as_completion(item) for item in getattr(data, split) if not item.generation_only]
        splits[split] = tuple(_sample(items, max_items, seed))
    if not splits["forget"]:
        raise VestigeError("no forget item has an answer, so nothing can be scored; give rows with an 'answer' (or 'text')")
    everything = [item for items in splits.values() for item in items]
    return UnlearnData(**{name: with_wrong_answers(items, everything, seed=seed) for name, items in splits.items()})


def as_completion(item: Item) -> Item:
    """Turn a document into a prompt and its continuation.

    The cut lies before the first sentence part that names the item's concept (the answer then begins with the concept and ends with that
    sentence), or in the middle of the words when no concept is named. Questions are returned as they are.
    """
    if item.prompt:
        return item
    text = item.answer
    at = text.lower().find(item.concept.lower()) if item.concept else -1
    if at > 0 and text[:at].strip():
        end = min((i for i in (text.find(mark, at) for mark in ".!?\n") if i >= 0), default=len(text) - 1) + 1
        return replace(item, prompt=text[:at].rstrip(), answer=text[at:end])
    words = text.split(" ")
    half = len(words) // 2
    return replace(item, prompt=" ".join(words[:half]), answer=" ".join(words[half:])) if half else item


def with_wrong_answers(items: Sequence[Item], pool: Sequence[Item], *, seed: int) -> tuple[Item, ...]:
    """Give every item without wrong answers up to five: answers of other items of its relation, or of any other item where it has no relation."""
    rng = random.Random(seed)
    filled = []
    for item in items:
        if item.perturbed_answers:
            filled.append(item)
            continue
        others = {o.answer: None for o in pool if o.relation == item.relation and o.answer != item.answer and o.prompt != item.prompt}
        filled.append(replace(item, perturbed_answers=tuple(rng.sample(list(others), min(WRONG_ANSWERS, len(others))))))
    return tuple(filled)


def _sample(items: list[Item], most: int, seed: int) -> list[Item]:
    if len(items) <= most:
        return items
    chosen = sorted(random.Random(seed).sample(range(len(items)), most))
    return [items[i] for i in chosen]
