"""Verdict cards and the at-a-glance chart: the few numbers a reader needs first, each beside its control and floor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite

from ..result import AuditReport, ResidualKnowledge, Result, SubjectInfo
from ..stands_out import telling
from .attacks import worst_of
from .explain import explain
from .residual import of_control, probability
from .table import reason
from .text import interval, number

_SAYS = ("forget_probability", "forget_rouge", "exact_memorization")
_INSIDE = ("lens_leak", "probe_leak")
_WEIGHTS = ("concept_vector_jaccard", "concept_vector_cosine")
_KEEPS = ("retain_probability", "model_utility")
_HIDDEN = ("suppression_index",)
# A method that claims suppression leaves the weights alone by design: what its switches hide says more than vectors do.
_CHOICES = {"suppression": (_SAYS, _HIDDEN + _WEIGHTS, _INSIDE, _KEEPS)}
_USUAL = (_SAYS, _INSIDE, _WEIGHTS, _KEEPS)
_GLANCE = (_SAYS, _INSIDE, _KEEPS)

KIND = {
    "original": "before forgetting",
    "unlearned": "made to forget",
    "retrained": "retrained without the forget set",
    "never": "never taught it",
}
PLACED = {
    "suppression": "Measured: suppression at most, the knowledge is still in it.",
    "mixed": "Measured: between suppression and removal.",
    "removal": "Measured: removal, as far as these instruments see.",
}
INTENT = {
    "removal": "Claims removal: the knowledge is deleted from the weights.",
    "suppression": "Claims suppression: the knowledge is kept out of the answers.",
    "attack": "An attack: tries to bring knowledge back.",
}


@dataclass(frozen=True)
class KeyNumber:
    """One number of a card as text. `beside` is its interval, or what else is said of it; `missing` says why there is
    none."""

    said: str
    value: str
    beside: str
    control: str
    floor: str
    missing: str = ""


@dataclass(frozen=True)
class Card:
    """What one subject claims and what was measured."""

    subject: SubjectInfo
    kind: str
    claim: str
    verdict: str
    numbers: tuple[KeyNumber, ...]


@dataclass(frozen=True)
class Lane:
    """One value on a line from 0 to 1. Positions are percentages of the width, None where there is nothing to draw. On
    an `unsure` value no claim rests."""

    label: str
    value: str
    at: float | None
    low: float | None
    high: float | None
    floor: float | None
    control: float | None
    spoken: str
    unsure: bool = False


@dataclass(frozen=True)
class Column:
    """The head of a column of the chart: its title, and what that is in plain words."""

    title: str
    plain: str


@dataclass(frozen=True)
class Glance:
    """The chart: one column per check, the last for all instruments together, one row of lanes per subject."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[SubjectInfo, tuple[Lane, ...]], ...]


# A probability and not the score: of a model that hides all it knows, the mean over instruments is small.
_TOGETHER = Column("Holds any of it", "probability, all together")


def build_cards(report: AuditReport) -> tuple[Card, ...]:
    """Return one card per subject, in the order of the subjects."""
    return tuple(_card(report, subject) for subject in report.subjects)


def _card(report: AuditReport, subject: SubjectInfo) -> Card:
    own = {result.check: result for result in report.results if result.subject == subject.name}
    # A mean over vectors of which chance gives some as well is in the tables and no key number.
    mute = _WEIGHTS if len(telling(report.concept_vectors)) < len(report.concept_vectors) else ()
    kinds = _CHOICES.get(subject.intent or "", _USUAL)
    chosen = (_first(own, [check for check in choices if check not in mute]) for choices in kinds)
    claim = (
        INTENT.get(subject.intent, f"Claims {subject.intent}.")
        if subject.intent
        else "Makes no claim: it is here for comparison."
    )
    residual = {one.subject: one for one in report.residual}
    mine = residual.get(subject.name)
    if mine is not None and mine.placed is not None:
        claim = f"{claim} {PLACED[mine.placed]}"
    numbers = [_key_number(r) for r in chosen if r is not None]
    if mine is not None:
        control = of_control(report)
        theirs = "–" if control is None else probability(control)
        numbers.append(KeyNumber("holds any of it (probability)", probability(mine), _beside(mine), theirs, ""))
    worst = worst_of([one for one in report.attacks if one.subject == subject.name])
    if worst is not None and subject.kind == "unlearned":
        said = f"recovered by {worst.attack.replace('_', ' ')}, beyond the control"
        numbers.append(KeyNumber(said, number(worst.gap), interval(worst.gap_low, worst.gap_high), "–", ""))
    verdict = report.verdicts.get(subject.name, "No verdict was given; see the numbers.")
    return Card(
        subject,
        KIND.get(subject.kind, subject.kind),
        claim,
        verdict,
        tuple(numbers),
    )


def _beside(residual: ResidualKnowledge) -> str:
    return f"score {number(residual.score)}{', abstains' if residual.abstains else ''}"


def _first(own: dict[str, Result], choices: Sequence[str]) -> Result | None:
    """Return the first result that was measured, else the first there is."""
    there = [own[check] for check in choices if check in own]
    return next((result for result in there if result.estimate is not None), there[0] if there else None)


def _key_number(result: Result) -> KeyNumber:
    missing = reason(result) if result.estimate is None else ""
    span = interval(result.low, result.high)
    return KeyNumber(
        explain(result.check).plain,
        number(result.estimate),
        span,
        number(result.control),
        number(result.floor),
        missing,
    )


def build_glance(report: AuditReport) -> Glance:
    """Lay out the chart; a check that no subject has is left out."""
    found = {(result.check, result.subject): result for result in report.results}
    measured = {result.check for result in report.results if result.estimate is not None}
    columns = [next((check for check in choices if check in measured), None) for choices in _GLANCE]
    checks = [check for check in columns if check is not None]
    rows = {s.name: [_lane(check, found.get((check, s.name))) for check in checks] for s in report.subjects}
    heads = [Column(explain(check).title, explain(check).plain) for check in checks]
    if report.residual:
        heads.append(_TOGETHER)
        residual, control = {one.subject: one for one in report.residual}, of_control(report)
        for name, lanes in rows.items():
            lanes.append(_chance(residual.get(name), control))
    return Glance(tuple(heads), tuple((s, tuple(rows[s.name])) for s in report.subjects))


def _chance(residual: ResidualKnowledge | None, control: ResidualKnowledge | None) -> Lane:
    if residual is None:
        return Lane(_TOGETHER.title, "–", None, None, None, None, None, f"{_TOGETHER.title}: not asked")
    said = probability(residual)
    at, mark = _likely(residual), None if control is None else _likely(control)
    unsure = ", too unsure for a claim" if residual.abstains else ""
    beside = "" if control is None else f", control {probability(control)}"
    short = said.replace("above ", ">").replace("below ", "<")
    spoken = f"{_TOGETHER.title}: {said}{unsure}{beside}"
    return Lane(_TOGETHER.title, short, at, None, None, None, mark, spoken, unsure=residual.abstains)


def _likely(residual: ResidualKnowledge) -> float | None:
    return _place(residual.probability) if isfinite(residual.probability) else None


def _lane(check: str, result: Result | None) -> Lane:
    if result is None or result.estimate is None:
        return Lane(explain(check).title, "–", None, None, None, None, None, reason(result))
    parts = [f"{explain(check).title} {number(result.estimate)}"]
    if span := interval(result.low, result.high):
        parts.append(f"95 % interval {span}")
    parts += [
        f"{name} {number(value)}"
        for name, value in (("chance", result.floor), ("control", result.control))
        if value is not None
    ]
    return Lane(
        explain(check).title,
        number(result.estimate),
        at=_place(result.estimate),
        low=_place(result.low),
        high=_place(result.high),
        floor=_place(result.floor),
        control=_place(result.control),
        spoken=", ".join(parts),
    )


def _place(value: float | None) -> float | None:
    """Return a position in percent; the line leaves 4 % at both ends, and values beyond it sit at the very edge."""
    if value is None:
        return None
    return round(min(98.5, max(1.5, 4 + 92 * value)), 2)
