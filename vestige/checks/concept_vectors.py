"""What became of the value vectors that carried the concept: cosine, L2 and overlap of their top tokens, on the bare weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from vestige.evidence import Evidence, item_means
from vestige.metrics.weights import cosine, default_k, jaccard_floor, l2, token_overlap
from vestige.reading import Reading
from vestige.result import Result

Rows = Float[np.ndarray, " d_model"]
_NONE = "no concept vectors were found; give a lexicon of the concept's words"
_HINT = "mean over the followed vectors; separately trained models have other neurons in the same places, so only edits of the original can be near 1"


def concept_vector_checks(evidence: Evidence) -> list[Result]:
    """Return `concept_vector_cosine`, `concept_vector_l2` (relative to the vector's norm) and `concept_vector_jaccard` for every subject."""
    width = len(evidence.vectors)
    d_vocab = evidence.decoder.W_U.shape[1]
    unembedding = evidence.decoder.W_U.float().cpu().numpy()

    def project(row: Rows) -> Float[np.ndarray, " d_vocab"]:
        projected: Float[np.ndarray, " d_vocab"] = row @ unembedding
        return projected

    def relative_l2(before: Rows, after: Rows) -> float | None:
        return l2(before, after).relative

    def jaccard(before: Rows, after: Rows) -> float | None:
        return token_overlap(project(before), project(after)).jaccard

    return [
        *item_means(evidence, "concept_vector_cosine", _over_rows(evidence, cosine), higher_is="leaky", floor=0.0 if width else None, missing=_missing(evidence), note=_HINT),
        *item_means(evidence, "concept_vector_l2", _over_rows(evidence, relative_l2), higher_is="changed", floor=0.0 if width else None, missing=_missing(evidence), note=_HINT),
        *item_means(
            evidence,
            "concept_vector_jaccard",
            _over_rows(evidence, jaccard),
            higher_is="leaky",
            floor=jaccard_floor(default_k(d_vocab), d_vocab) if width else None,
            missing=_missing(evidence),
            note=_HINT,
        ),
    ]


def _over_rows(evidence: Evidence, compare: Callable[[Rows, Rows], float | None]) -> Callable[[Reading], list[float]]:
    def values(reading: Reading) -> list[float]:
        found = []
        for at, before in evidence.original.value_rows.items():
            after = reading.value_rows.get(at)
            value = compare(before, after) if after is not None and after.shape == before.shape else None
            if value is not None:
                found.append(value)
        return found

    return values


def _missing(evidence: Evidence) -> str:
    return "every followed vector is zero or has another shape here, so the comparison is undefined" if evidence.vectors else _NONE
