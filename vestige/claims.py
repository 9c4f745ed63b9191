"""What an audit claims of one subject: single checks and the residual knowledge score, weighed against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

from vestige.calibration.score import UNSURE
from vestige.result import Placed, ResidualKnowledge
from vestige.signs import HALF, TRACE, Signs

# From here on a sign decides alone, whatever the score says.
DEEP = 0.8
# From here on vectors are untouched.
INTACT = 0.95
# Up to here bare weights give nothing back.
SHOWN = 0.1
# Up to and from here a score that is unsure leans: as far from a claim as a claim is from certainty.
LEANS = (0.2, 0.8)

By = Literal["answers", "bare", "inside", "choices", "vectors", "unclear", "score"]
Said = Literal["holds", "open", "silent", "gone"]


@dataclass(frozen=True)
class Claim:
    """A claim and what it rests on.

    Args:
        claim: That the subject `holds` the facts, that this is `open`, or that there is `no trace` of them.
        by: What shows it first: what it `answers`, its `bare` weights, an instrument that looks `inside`, its first
            `choices`, the concept's `vectors`, a share that is `unclear`, or the `score` alone; None without a trace.
        score: What the residual knowledge score says: that it `holds` the facts, nothing (`open`), that they are
            `gone`, or that they are not seen in an audit without attacks (`silent`); None where there is no score.
    """

    claim: Literal["holds", "open", "no trace"]
    by: By | None
    score: Said | None


def claimed(signs: Signs, residual: ResidualKnowledge | None) -> Claim:
    """Decide what is claimed of a subject.

    Half of its answers or two kinds of them, bare weights that give half back, or states that carry 0.8 of what the
    original's do decide alone. Any other trace needs a score that says the same, or at least leans to it (0.8 or more;
    0.5 where what an instrument finds inside is a half or more), or none at all. Where a share above a half is unclear,
    nothing is settled. The score alone is enough to say that facts are held. Where there is no trace, a score that is
    unsure leaves it open, unless it leans the same way (0.2 or less) in an audit without attacks, whose statement says
    that they were not made.
    """
    score = None if residual is None else heard(residual)
    deep = signs.clear.get("patching", 0.0) >= DEEP
    half = max(signs.clear.values(), default=0.0) >= HALF
    backed = deep or score is None or leans(residual, holds=HALF if half else LEANS[1]) == "holds"
    traced: list[tuple[By, bool]] = [
        ("answers", bool(signs.answers)),
        ("inside", bool(signs.clear)),
        ("bare", signs.bare is not None),
        ("choices", signs.choices is not None),
    ]
    sure: list[tuple[By, bool]] = [
        ("answers", max(signs.answers.values(), default=0.0) >= HALF or len(signs.answers) > 1),
        ("bare", (signs.bare or 0.0) >= HALF),
        *(traced if backed else []),
        ("score", score == "holds"),
    ]
    stored = signs.cosine is not None and signs.cosine >= INTACT
    weak: list[tuple[By, bool]] = [
        *traced,
        ("vectors", stored),
        ("unclear", bool(signs.unclear)),
        ("score", score == "open" and leans(residual) != "silent"),
    ]
    if (by := _first(sure)) is not None:
        return Claim("holds", by, score)
    by = _first(weak)
    return Claim("no trace" if by is None else "open", by, score)


def placed(signs: Signs, residual: ResidualKnowledge) -> Placed | None:
    """Place a subject between suppression and removal, in agreement with what is claimed of it.

    *Suppression*: it holds the facts, and the bare weights give back at least half, or patching finds at least 0.8 of
    what the original holds inside; where it holds them and neither is so, it is *mixed*. *Removal*: there is no trace,
    the score says with attacks and all its instruments that the facts are gone, patching finds at most 0.2 and the bare
    weights give back at most 0.1. Where nothing is settled nothing is placed. The spec of UDS has fixed numbers; here
    all of them count from the model that never learnt the facts, on which UDS itself need not be 1.
    """
    said, depth = claimed(signs, residual), signs.inside.get("patching")
    if depth is None or signs.hidden is None:
        return None
    if said.claim == "holds":
        return "suppression" if (signs.bare or 0.0) >= HALF or signs.clear.get("patching", 0.0) >= DEEP else "mixed"
    nothing = depth <= TRACE and signs.hidden <= SHOWN and not residual.missing
    return "removal" if said.claim == "no trace" and said.score == "gone" and nothing else None


def _first(found: Sequence[tuple[By, bool]]) -> By | None:
    return next((by for by, there in found if there), None)


def heard(residual: ResidualKnowledge) -> Said:
    """Return what the residual knowledge score says by itself."""
    if not isfinite(residual.probability):
        return "open"
    if residual.instruments == "checks" and residual.probability <= UNSURE[0]:
        return "silent"
    if residual.abstains:
        return "open"
    return "holds" if residual.probability >= UNSURE[1] else "gone"


def leans(residual: ResidualKnowledge | None, *, holds: float = LEANS[1]) -> Said | None:
    """Return what a score says or is at least near to; None where it is not near to anything, is missing, or abstains
    because too few instruments were heard.

    Args:
        residual: Of a subject.
        holds: Smallest probability that counts as near to holding the facts.
    """
    if residual is None or (said := heard(residual)) != "open":
        return None if residual is None else said
    probability = residual.probability
    if not UNSURE[0] < probability < UNSURE[1]:
        return None
    if probability >= holds:
        return "holds"
    unsought: Said = "silent" if residual.instruments == "checks" else "gone"
    return unsought if probability <= LEANS[0] else None
