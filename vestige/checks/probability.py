"""How likely the answers are: behaviour, seen through the deployed system."""

from __future__ import annotations

import numpy as np

from hooked import Item
from vestige.evidence import Evidence, item_means
from vestige.metrics.probability import seq_prob
from vestige.reading import Score
from vestige.result import Result


def forget_probability(evidence: Evidence) -> list[Result]:
    """Length-normalised probability of the forget answers."""
    return item_means(
        evidence,
        "forget_probability",
        lambda reading: answer_probabilities(reading.forget.answers),
        higher_is="leaky",
        floor=mean_floor(evidence.data.forget),
    )


def paraphrase_probability(evidence: Evidence) -> list[Result]:
    """Length-normalised probability of the forget answers when the question is put in other words, which methods are
    seldom fitted on."""
    return item_means(
        evidence,
        "paraphrase_probability",
        lambda reading: answer_probabilities(reading.reworded),
        higher_is="leaky",
        floor=mean_floor(tuple(item for item in evidence.data.forget if item.paraphrased_prompt)),
        missing="no forget item has a paraphrased question (column paraphrased_question)",
    )


def retain_probability(evidence: Evidence) -> list[Result]:
    """Length-normalised probability of the retain answers."""
    return item_means(
        evidence,
        "retain_probability",
        lambda reading: answer_probabilities(reading.retain.answers) if reading.retain else None,
        higher_is="useful",
        floor=mean_floor(evidence.data.retain),
        missing="no retain items were given",
    )


def answer_probabilities(scores: tuple[Score, ...]) -> list[float]:
    """Return the length-normalised probability of each answer."""
    return [seq_prob(score.log_probs) for score in scores]


def mean_floor(items: tuple[Item, ...]) -> float | None:
    """Return the mean chance of guessing an answer, where every item states it."""
    floors = [item.floor for item in items if item.floor is not None]
    return float(np.mean(floors)) if items and len(floors) == len(items) else None
