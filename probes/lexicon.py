"""From words to token weights: which tokens stand for a concept, given its words or a text about it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, VestigeError

_Z = 1.28
# Words that every English text over-uses against a vocabulary. Function words only, so that no topic is lost.
_STOP_WORDS = frozenset(
    "a about after again all also am an and any are as at be because been before being but by can could did do does "
    "doing down during each few for from further had has have having he her here hers herself him himself his how i "
    "if in into is it its itself just me more most my myself no nor not now of off on once only or other our ours out "
    "over own said same she should so some such than that the their theirs them themselves then there these they this "
    "those through to too under until up us very was we were what when where which while who whom why will with would "
    "you your yours yourself".split()
)


def lexicon_weights(model: HookedModel, words: Sequence[str]) -> Float[Tensor, " d_vocab"]:
    """Return a weight per token of the vocabulary, summing to 1, from the words of a concept.

    A word is tokenised as it stands and with a space in front (in most tokenizers those are different tokens). Each
    spelling spreads a weight of 1 evenly over its tokens, and a token keeps the largest weight that any spelling gives
    it, so that a fragment of a long word counts for less than a word that is one token. Special tokens, unknown-word
    tokens and tokens without a letter or digit get nothing.

    Raises:
        VestigeError: No word, a word that is not text, or a word of which no token is left.
    """
    if isinstance(words, str) or not words:
        raise VestigeError(
            "a lexicon is a list of at least one word, e.g. ['Hogwarts', 'wizard']"
            + (f"; got {words!r}" if words else "")
        )
    weights = torch.zeros(model.d_vocab, dtype=torch.float64)
    for word in words:
        if not isinstance(word, str):
            raise VestigeError(f"a lexicon holds words, got {word!r}")
        spellings = [ids for text in (word.strip(), " " + word.strip()) if (ids := _content_ids(model, text))]
        if not spellings:
            raise VestigeError(f"the tokenizer has no token for the lexicon word {word!r}")
        for ids in spellings:
            index = torch.tensor(sorted(set(ids)))
            weights[index] = weights[index].clamp(min=1.0 / len(ids))
    return weights / weights.sum()


def seed_text_weights(
    model: HookedModel, text: str | Sequence[str], *, background: str | Sequence[str] | None = None, most: int = 50
) -> Float[Tensor, " d_vocab"]:
    """Return a weight per token, summing to 1, from a text about a concept: equal weights on the tokens that the text
    over-uses.

    A token is scored by the z-score of its log odds in the text against the background, and kept if it is above 1.28
    (one-sided 10 %, so that a short text is enough), at most `most` of them. Without a background the comparison is
    with a uniform vocabulary, which every frequent word beats; that is why function words are excluded, and why a
    background (e.g. the retain text) is worth giving.

    Args:
        model: Its tokenizer cuts the text.
        text: One text or several.
        background: Text of the same kind without the concept.
        most: Most tokens that are kept.

    Raises:
        VestigeError: The text has no token, or over-uses none.

    Source:
        Monroe, Colaresi and Quinn 2008, *Fightin' Words*, equations 15 to 22, with 0.5 per token as the prior in place
        of an informative one.
    """
    seen = _counts(model, text)
    if not seen:
        raise VestigeError(
            "no token of the seed text is a word that could name a concept (function words and lone letters are not); "
            "give a longer text or a lexicon"
        )
    total = sum(seen.values())
    against = Counter[int]() if background is None else _counts(model, background)
    n_against = sum(against.values())
    scores: dict[int, float] = {}
    for token, count in seen.items():
        if background is None:
            other, spread = math.log(1.0 / (model.d_vocab - 1)), 0.0
        else:
            b = against[token] + 0.5
            other, spread = math.log(b / (n_against - b + 1.0)), 1.0 / b
        mine = math.log((count + 0.5) / (total - count + 0.5))
        scores[token] = (mine - other) / math.sqrt(1.0 / (count + 0.5) + spread)
    kept = sorted((t for t, z in scores.items() if z > _Z), key=lambda t: (-scores[t], t))[:most]
    if not kept:
        raise VestigeError(
            f"no token is over-represented in the seed text of {total} content tokens; "
            "give a longer text, a background without the concept, or a lexicon"
        )
    weights = torch.zeros(model.d_vocab, dtype=torch.float64)
    weights[torch.tensor(kept)] = 1.0 / len(kept)
    return weights


def _counts(model: HookedModel, text: str | Sequence[str]) -> Counter[int]:
    """Count the content tokens of a text: no function words, and no lone ASCII letters, which are fragments."""
    counts: Counter[int] = Counter()
    for part in [text] if isinstance(text, str) else text:
        counts.update(i for i in _content_ids(model, part) if _counts_as_word(_surface(model, i)))
    return counts


def _content_ids(model: HookedModel, text: str) -> list[int]:
    if model.tokenizer is None:
        raise VestigeError("finding a concept's tokens needs a tokenizer; pass tokenizer= to HookedModel")
    special = set(model.tokenizer.all_special_ids)
    ids = model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"] if text.strip() else []
    return [i for i in ids if i not in special and any(c.isalnum() for c in _surface(model, i))]


def _counts_as_word(text: str) -> bool:
    return text.lower() not in _STOP_WORDS and not (len(text) == 1 and text.isascii())


def _surface(model: HookedModel, token: int) -> str:
    return model.to_string([token]).strip()
