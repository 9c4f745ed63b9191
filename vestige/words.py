"""Which words stand for what is to be forgotten, where the user named none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hooked import HookedModel, Item, UnlearnData, VestigeError
from probes.lexicon import lexicon_weights

# The search of concept vectors ranks every word's tokens in every neuron, so its cost grows with their number.
MOST_WORDS = 50


def concept_words(model: HookedModel, data: UnlearnData, lexicon: Sequence[str] | None) -> tuple[str, ...]:
    """Return the words by which concept vectors are searched; none where nothing tells the concept.

    A lexicon is taken as it is. Without one: the concepts that the data names, if it is plain documents, else the words
    that the forget answers have and the retain answers do not (`forget_words`), without those that the tokenizer
    cannot spell.
    """
    if lexicon is not None:
        return tuple(lexicon)
    documents = all(item.is_document for item in data.forget)
    words = data.concepts if documents else forget_words(data)
    return tuple(word for word in words if _has_token(model, word))


def forget_words(data: UnlearnData) -> tuple[str, ...]:
    """Return the words that the forget answers have and the retain answers do not, those of most answers first, at most
    50."""
    kept = {word for item in data.retain for word in _words(item)}
    counts = Counter(word for item in data.forget for word in dict.fromkeys(_words(item)) if word not in kept)
    return tuple(word for word, _ in counts.most_common(MOST_WORDS))


def _words(item: Item) -> list[str]:
    stripped = (part.strip(".,;:!?\"'()[]") for part in item.answer.split())
    return [word for word in stripped if len(word) > 1 and any(character.isalnum() for character in word)]


def _has_token(model: HookedModel, word: str) -> bool:
    try:
        lexicon_weights(model, [word])
    except VestigeError:
        return False
    return True
