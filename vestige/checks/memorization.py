"""How much of each forget answer the model still completes token by token."""

from __future__ import annotations

from vestige.evidence import Evidence, item_means
from vestige.metrics import memorization
from vestige.result import Result


def extraction_strength(evidence: Evidence) -> list[Result]:
    """Share of an answer's tail that is predicted right from some point on."""
    return item_means(
        evidence,
        "extraction_strength",
        lambda reading: [memorization.extraction_strength(s.predictions, s.labels) for s in reading.forget.answers],
        higher_is="leaky",
        floor=0.0,
    )


def exact_memorization(evidence: Evidence) -> list[Result]:
    """Share of answer tokens that are the model's first choice, given the tokens before."""
    return item_means(
        evidence,
        "exact_memorization",
        lambda reading: [memorization.exact_memorization(s.predictions, s.labels) for s in reading.forget.answers],
        higher_is="leaky",
        floor=1 / evidence.decoder.W_U.shape[1],
    )
