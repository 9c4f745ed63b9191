"""What the model says when asked."""

from __future__ import annotations

import random

import numpy as np

from vestige.evidence import Evidence, item_means
from vestige.metrics.generation import rouge_l_recall, unique_token_ratio
from vestige.reading import Reading
from vestige.result import Result

PERMUTATIONS = 20


def forget_rouge(evidence: Evidence) -> list[Result]:
    """ROUGE-L recall of greedy continuations against the forget answers; the floor pairs the original's continuations with other items' answers."""
    references = [item.answer for item in evidence.data.forget]

    def recalls(reading: Reading) -> list[float]:
        return [rouge_l_recall(text, reference=r) for text, r in zip(reading.forget.texts, references, strict=True)]

    return item_means(evidence, "forget_rouge", recalls, higher_is="leaky", floor=_permuted_floor(evidence, references))


def degeneracy(evidence: Evidence) -> list[Result]:
    """Unique-token ratio of all continuations; low means the model repeats itself, and then every "forgotten" score is worth little."""

    def ratios(reading: Reading) -> list[float]:
        rows = reading.forget.token_ids + (reading.retain.token_ids if reading.retain else ())
        return [value for row in rows if row and (value := unique_token_ratio(list(row))) is not None]

    return item_means(evidence, "degeneracy", ratios, higher_is="useful", missing="every continuation was empty")


def _permuted_floor(evidence: Evidence, references: list[str]) -> float | None:
    if len(references) < 2:
        return None
    rng = random.Random(evidence.seed)
    texts = evidence.original.forget.texts
    means = []
    for _ in range(PERMUTATIONS):
        shuffled = rng.sample(references, len(references))
        means.append(float(np.mean([rouge_l_recall(t, reference=r) for t, r in zip(texts, shuffled, strict=True)])))
    return float(np.mean(means))
