"""What became of the value vectors that carried the concept: cosine, L2 and overlap of their top tokens, on the bare
weights."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

from probes.vocabulary import default_k
from vestige.evidence import Evidence, item_means
from vestige.metrics.weights import cosine, jaccard_floor, l2, token_overlap
from vestige.reading import Reading
from vestige.result import Orientation, Result
from vestige.stands_out import telling

Row = Float[np.ndarray, " d_model"]
Compare = Callable[[Row, Row], float | None]

_NONE = "no concept vectors were followed; give a lexicon of the concept's words"
_GONE = "no followed vector exists in this model"
_HINT = (
    "mean over the followed vectors (a method that edits exactly these scores low by construction); "
    "separately trained models have other neurons in the same places, so only edits of the original compare"
)


def concept_vector_checks(evidence: Evidence) -> list[Result]:
    """Return `concept_vector_cosine`, `concept_vector_l2` (relative to the vector's norm) and `concept_vector_jaccard`
    for every subject."""
    unembedding = evidence.decoder.W_U.float().cpu().numpy()
    d_vocab = unembedding.shape[1]

    def relative_l2(before: Row, after: Row) -> float | None:
        return l2(before, after).relative

    def jaccard(before: Row, after: Row) -> float | None:
        return token_overlap(before @ unembedding, after @ unembedding).jaccard

    def cosine_or_zero(before: Row, after: Row) -> float | None:
        # A vector set to zero points nowhere; leaving it out would let the untouched ones stand for all.
        return 0.0 if before.any() and not after.any() else cosine(before, after)

    return [
        *_compared(evidence, "concept_vector_cosine", cosine_or_zero, higher_is="leaky", floor=0.0),
        *_compared(evidence, "concept_vector_l2", relative_l2, higher_is="changed", floor=0.0),
        *_compared(
            evidence,
            "concept_vector_jaccard",
            jaccard,
            higher_is="leaky",
            floor=jaccard_floor(default_k(d_vocab), d_vocab),
        ),
    ]


def _compared(
    evidence: Evidence, check: str, compare: Compare, *, higher_is: Orientation, floor: float
) -> list[Result]:
    def values(reading: Reading) -> list[float]:
        pairs = _pairs(evidence.original, reading)
        return [value for before, after in pairs if (value := compare(before, after)) is not None]

    def note(reading: Reading) -> str:
        n, left_out = len(evidence.vectors), len(evidence.vectors) - len(values(reading))
        said = [f"{left_out} of {n} vectors cannot be compared here"] if left_out else []
        if (beyond := len(telling(evidence.vectors))) < n:
            said.append(f"{beyond or 'none'} of the {n} vectors is more about the concept than chance gives")
        return "; ".join([*said, _HINT])

    return item_means(
        evidence,
        check,
        values,
        higher_is=higher_is,
        floor=floor if evidence.vectors else None,
        missing=_GONE if evidence.vectors else _NONE,
        note=note,
    )


def _pairs(original: Reading, reading: Reading) -> list[tuple[Row, Row]]:
    return [(before, reading.value_rows[at]) for at, before in original.value_rows.items() if at in reading.value_rows]
