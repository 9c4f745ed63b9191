"""What single checks show of one subject, as shares: 0 for a model that never learnt the facts, 1 for the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import isfinite

from vestige.result import ConceptVectorRow, Result
from vestige.shares import share
from vestige.stands_out import telling

# Above this a share is a trace; states of models that never knew, patched into one that knows, reach it by themselves.
TRACE = 0.2
HALF = 0.5

Table = Mapping[tuple[str, str], Result]

# What counts as an answer. First choices after the right beginning of an answer do not: grammar decides many of them.
_ANSWERS = ("forget_probability", "forget_rouge", "paraphrase_probability")
_VECTORS = "concept_vector_cosine"
_INSIDE = {"lens": ("lens_leak",), "probe": ("probe_leak",), "patching": ("depth_leak", "raw_depth_leak")}


@dataclass(frozen=True)
class Signs:
    """The checks of one subject.

    Args:
        answers: Checks of what it says to the share that is left, where that is a trace.
        choices: What is left in its first choices after the right beginning of an answer, where that is a trace.
        hidden: Share that the bare weights give back, at most their own share.
        bare: The same, where that is a trace.
        inside: Instruments that look inside to the share they find; None where they tell nothing.
        clear: Those of them that find a trace.
        unclear: Checks that find more than half, but not clearly above control and floor.
        cosine: Mean cosine of the concept's vectors before and after, of those that are beyond chance; None where none
            is.
    """

    answers: Mapping[str, float]
    choices: float | None
    hidden: float | None
    bare: float | None
    inside: Mapping[str, float | None]
    clear: Mapping[str, float]
    unclear: Mapping[str, float]
    cosine: float | None


def table_of(results: Sequence[Result], vectors: Sequence[ConceptVectorRow]) -> Table:
    """Return results by check and subject; the cosine is that of the vectors that are beyond chance alone."""
    rows = telling(vectors)
    return {
        (r.check, r.subject): r if r.check != _VECTORS or len(rows) == len(vectors) else _of_telling(r, rows)
        for r in results
    }


def _of_telling(result: Result, rows: Sequence[ConceptVectorRow]) -> Result:
    # A row of zeros has no cosine, and it surely no longer points where it did.
    found = [row.cosine[result.subject] or 0.0 for row in rows if result.subject in row.cosine]
    return replace(result, estimate=sum(found) / len(found) if found else None, low=None, high=None)


def signs_of(table: Table, name: str, original: str) -> Signs | None:
    """Collect the signs of a subject.

    A trace is a share above 0.2 (of patching, 0.5) whose interval lies above control and floor; of what the bare
    weights give back, above 0.

    Args:
        table: Check and subject to result.
        name: Name of the subject.
        original: Name of the model before unlearning.

    Returns:
        None where forget probability has no scale, without which nothing can be called forgotten.
    """
    left = share(table, "forget_probability", name, original)
    if left is None:
        return None
    # The index counts from what is left: where that lies below the control, part of it only makes up for the lack.
    below = min(0.0, left)
    index = estimate(table, "suppression_index", name)
    hidden = None if index is None else index + below
    low = table["suppression_index", name].low if index is not None else None

    def shares(*checks: str, above: float) -> dict[str, float]:
        found = {check: left for check in checks if (left := share(table, check, name, original)) is not None}
        return {check: left for check, left in found.items() if left > above}

    def traces(*checks: str, above: float = TRACE) -> dict[str, float]:
        found = shares(*checks, above=above)
        return {check: left for check, left in found.items() if _is_above(table, check, name)}

    def largest(checks: tuple[str, ...]) -> float | None:
        found = (share(table, check, name, original) for check in checks)
        return max((left for left in found if left is not None), default=None)

    marks = {what: HALF if what == "patching" else TRACE for what in _INSIDE}
    found = {what: traces(*checks, above=marks[what]) for what, checks in _INSIDE.items()}
    return Signs(
        answers=traces(*_ANSWERS),
        choices=traces("exact_memorization").get("exact_memorization"),
        hidden=hidden,
        bare=hidden if hidden is not None and hidden > TRACE and (low is None or low + below > 0) else None,
        # Not every audit patches, but every one has a lens and a probe.
        inside={what: largest(c) for what, c in _INSIDE.items() if what != "patching" or (c[0], name) in table},
        clear={what: max(values.values()) for what, values in found.items() if values},
        # Smaller ones are what luck gives a model that never knew.
        unclear={
            check: left
            for check, left in shares(*_ANSWERS, "exact_memorization", *chain(*_INSIDE.values()), above=HALF).items()
            if not _is_above(table, check, name)
        },
        cosine=estimate(table, _VECTORS, name),
    )


def estimate(table: Table, check: str, name: str) -> float | None:
    """Return a finite estimate, or None."""
    result = table.get((check, name))
    found = None if result is None else result.estimate
    return found if found is not None and isfinite(found) else None


def _is_above(table: Table, check: str, name: str) -> bool:
    """Whether a result lies above its control and its floor by more than the choice of items explains."""
    result = table[check, name]
    return all(result.low is None or mark is None or result.low > mark for mark in (result.control, result.floor))
