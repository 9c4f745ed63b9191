"""What the model says when asked."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

import numpy as np

from vestige.evidence import Evidence, item_means
from vestige.metrics.generation import rouge_l_recall, unique_token_ratio
from vestige.reading import Reading
from vestige.result import Result

PERMUTATIONS = 20
NOTHING_SAID = "every continuation was empty"
NO_WORDS = "ROUGE-L compares words of a-z and 0-9, and no answer has one"
_WORD = re.compile("[a-z0-9]")


def forget_rouge(evidence: Evidence) -> list[Result]:
    """ROUGE-L recall of greedy continuations against the forget answers; the floor pairs the original's continuations
    with other items' answers."""
    references = [item.answer for item in evidence.data.forget]
    return item_means(
        evidence,
        "forget_rouge",
        lambda reading: recalls(reading.forget.texts, references),
        higher_is="leaky",
        floor=_permuted_floor(evidence, references),
        missing=NO_WORDS,
    )


def degeneracy(evidence: Evidence) -> list[Result]:
    """Unique-token ratio of all continuations; low means the model repeats itself, and then every "forgotten" score is
    worth little."""

    def ratios(reading: Reading) -> list[float]:
        return [value for row in _continuations(reading) if (value := unique_token_ratio(list(row))) is not None]

    def empty(reading: Reading) -> str:
        rows = _continuations(reading)
        none = sum(not row for row in rows)
        return f"{none} of {len(rows)} continuations were empty and are not counted" if none else ""

    return item_means(evidence, "degeneracy", ratios, higher_is="useful", missing=NOTHING_SAID, note=empty)


def recalls(texts: Sequence[str], references: Sequence[str]) -> list[float]:
    """Return the ROUGE-L recall of each text whose reference has a word that ROUGE can see."""
    pairs = zip(texts, references, strict=True)
    return [rouge_l_recall(text, reference=wanted) for text, wanted in pairs if _WORD.search(wanted.lower())]


def _continuations(reading: Reading) -> tuple[tuple[int, ...], ...]:
    return reading.forget.token_ids + (reading.retain.token_ids if reading.retain else ())


def _permuted_floor(evidence: Evidence, references: list[str]) -> float | None:
    if len(references) < 2:
        return None
    rng = random.Random(evidence.seed)
    texts = evidence.original.forget.texts
    found = [recalls(texts, rng.sample(references, len(references))) for _ in range(PERMUTATIONS)]
    return float(np.mean(found)) if found[0] else None
