"""What an audit asks: items with a prompt, an answer and wrong answers, made from whatever the user brought."""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Sequence
from dataclasses import replace

from hooked import Item, UnlearnData, VestigeError

WRONG_ANSWERS = 5
# A document is asked about at one place; reading all of a long one would cost much and could exceed the context.
PROMPT_WORDS, ANSWER_WORDS = 100, 50
# Full stop, exclamation and question mark, those of Chinese and Japanese included.
_SENTENCE_END = re.compile("[.!?\n\u3002\uff01\uff1f]")


def audit_items(data: UnlearnData, *, max_items: int, seed: int) -> UnlearnData:
    """Prepare data for an audit.

    Documents become completions (`as_completion`), items without wrong answers get some from other items
    (`with_wrong_answers`), questions without an answer and documents of one word are left out, what stands in a split
    more than once is asked once (and said, for forget items: copies are no further evidence), and each split keeps at
    most `max_items`, drawn with the seed.

    Raises:
        VestigeError: No forget item has an answer to score.
    """
    splits: dict[str, tuple[Item, ...]] = {}
    for split in ("forget", "retain", "holdout", "control"):
        items = [as_completion(item) for item in getattr(data, split) if not item.generation_only]
        asked = [item for item in items if item.prompt]
        distinct = list(dict.fromkeys(asked))
        if split == "forget" and len(distinct) < len(asked):
            warnings.warn(
                f"{len(asked) - len(distinct)} of {len(asked)} forget items repeat others and are asked once",
                UserWarning,
                stacklevel=3,
            )
        splits[split] = tuple(_sample(distinct, max_items, seed))
    if not splits["forget"]:
        raise VestigeError(
            "no forget item has an answer, so nothing can be scored; "
            "give rows with a 'question' and an 'answer', or a 'text' of several words"
        )
    everything = [item for items in splits.values() for item in items]
    return UnlearnData(**{name: with_wrong_answers(items, everything, seed=seed) for name, items in splits.items()})


def as_completion(item: Item) -> Item:
    """Turn a document into a prompt and its continuation.

    With a concept, the cut lies before its first mention that has text in front of it (a mention begins a word), and
    the answer is the rest of that sentence. Otherwise the cut lies in the middle of the words. Long documents are
    shortened around the cut. Questions are returned as they are, and so is a document of one word, which has no middle.
    """
    if item.prompt:
        return item
    text = item.answer.strip()
    at = _mention(text, item.concept) if item.concept else None
    if at is not None:
        end = _SENTENCE_END.search(text, at.end())
        before, answer = text[: at.start()].rstrip(" ").split(" "), text[at.start() : end.end() if end else None]
        return replace(item, prompt=" ".join(before[-PROMPT_WORDS:]), answer=_first_words(answer))
    words = text.split(" ")
    if len(words) == 1:
        # Scripts such as Chinese have no spaces, and any character is a place to cut.
        half = 0 if text.isascii() else len(text) // 2
        return replace(item, prompt=text[:half], answer=text[half:]) if half else item
    half = min(len(words) // 2, PROMPT_WORDS)
    return replace(item, prompt=" ".join(words[:half]), answer=_first_words(" ".join(words[half:])))


def with_wrong_answers(items: Sequence[Item], pool: Sequence[Item], *, seed: int) -> tuple[Item, ...]:
    """Give every item without wrong answers up to five: answers of other items of its relation (items without a
    relation share one).

    Such an item loses its paraphrased answer: wrong answers in the style of plain answers are to be compared with the
    plain answer.
    """
    rng = random.Random(seed)
    filled = []
    for item in items:
        if item.perturbed_answers:
            filled.append(item)
            continue
        others = dict.fromkeys(
            other.answer
            for other in pool
            if other.relation == item.relation and other.answer != item.answer and other.prompt != item.prompt
        )
        wrong = tuple(rng.sample(list(others), min(WRONG_ANSWERS, len(others))))
        filled.append(replace(item, perturbed_answers=wrong, paraphrased_answer=None))
    return tuple(filled)


def _mention(text: str, concept: str) -> re.Match[str] | None:
    spaced = any(character.isspace() for character in text)
    begins = r"(?<!\w)" if spaced else ""
    found = re.finditer(begins + re.escape(concept.strip()), text, re.IGNORECASE)
    return next((mention for mention in found if text[: mention.start()].strip()), None)


def _first_words(text: str) -> str:
    return " ".join(text.split(" ")[:ANSWER_WORDS])


def _sample(items: list[Item], most: int, seed: int) -> list[Item]:
    if len(items) <= most:
        return items
    chosen = sorted(random.Random(seed).sample(range(len(items)), most))
    return [items[i] for i in chosen]
