"""Under attack: what each attack recovers from each subject, the worst of them first, and curves over an attacker's
steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..attacks.catalogue import ATTACKS
from ..result import AttackResult, AuditReport
from .layers import STEPS
from .text import number

WIDTH, HEIGHT = 320, 120


@dataclass(frozen=True)
class AttackCell:
    """What one attack got out of one subject, as text; `step` is its shade, None where there is no gap."""

    score: str
    gap: str
    interval: str
    step: int | None
    missing: str = ""


@dataclass(frozen=True)
class AttackRow:
    """One attack."""

    name: str
    says: str
    access: str
    upper_bound: bool
    cells: tuple[AttackCell, ...]
    control: str


@dataclass(frozen=True)
class Worst:
    """The attack that recovers most from a subject, and one that was shown the answers, where that recovers more."""

    subject: str
    attack: str
    gap: str
    interval: str
    upper_bound: bool
    shown: Worst | None = None


@dataclass(frozen=True)
class Line:
    """A subject's curve: `points` for an SVG polyline, and its ends as text."""

    subject: str
    points: str
    said: str
    shade: int


@dataclass(frozen=True)
class Chart:
    """The curves of one attack; labels stand at the ends of its steps."""

    attack: str
    lines: tuple[Line, ...]
    first: str
    last: str


@dataclass(frozen=True)
class UnderAttack:
    """The section."""

    rows: tuple[AttackRow, ...]
    worst: tuple[Worst, ...]
    charts: tuple[Chart, ...]
    notes: tuple[tuple[str, str], ...]


def build_attacks(report: AuditReport) -> UnderAttack | None:
    """Lay out the attacks of a normalised report; None where none was run."""
    if not report.attacks:
        return None
    names = list(dict.fromkeys(result.attack for result in report.attacks))
    found = {(result.attack, result.subject): result for result in report.attacks}
    subjects = [subject.name for subject in report.subjects]
    rows = [_row(name, [found.get((name, subject)) for subject in subjects]) for name in names]
    worst = [
        one
        for subject in report.subjects
        if subject.kind == "unlearned"
        if (one := _worst(subject.name, [found[name, subject.name] for name in names if (name, subject.name) in found]))
    ]
    charts = [chart for name in names if (chart := _chart(name, [found.get((name, subject)) for subject in subjects]))]
    return UnderAttack(tuple(rows), tuple(worst), tuple(charts), tuple(_notes(report, len(subjects))))


def _notes(report: AuditReport, n_subjects: int) -> Iterator[tuple[str, str]]:
    """Yield each note once, titled with its attack and, unless it holds for all, the subjects."""
    of: dict[tuple[str, str], list[str]] = {}
    for result in report.attacks:
        if result.note:
            of.setdefault((result.attack, result.note), []).append(result.subject)
    for (name, note), subjects in of.items():
        yield name if len(subjects) == n_subjects else f"{name} ({', '.join(subjects)})", note


def worst_of(results: Sequence[AttackResult]) -> AttackResult | None:
    """Return the attack that recovers most of one subject: its whole interval above 0, and not shown the answers where
    another one is not."""
    clear = [r for r in results if r.gap is not None and r.gap_low is not None and r.gap_low > 0]
    return max(clear, key=lambda r: (not r.uses_target, r.gap or 0.0), default=None)


def _row(name: str, results: Sequence[AttackResult | None]) -> AttackRow:
    row = ATTACKS.get(name)
    there = [result for result in results if result is not None]
    control = next((r.control for r in there if r.control is not None), None)
    return AttackRow(
        name,
        row.says if row else "",
        there[0].access,
        there[0].uses_target,
        tuple(_cell(result) for result in results),
        number(control),
    )


def _cell(result: AttackResult | None) -> AttackCell:
    if result is None or result.estimate is None:
        return AttackCell(
            "", "", "", None, "not run: " + (result.note if result and result.note else "no reason given")
        )
    step = None if result.gap is None else round(min(1.0, max(0.0, result.gap)) * (STEPS - 1))
    return AttackCell(number(result.estimate), _gap(result.gap), _between(result), step)


def _worst(subject: str, results: Sequence[AttackResult]) -> Worst | None:
    found = worst_of(results)
    if found is None:
        return None
    said = _gap(found.gap) if found.gap is None or found.gap <= 1 else f"at least all of it ({_gap(found.gap)})"
    louder = [r for r in results if r.uses_target and (r.gap or 0.0) > (found.gap or 0.0)]
    shown = None if found.uses_target else _worst(subject, louder)
    return Worst(subject, found.attack, said, _between(found), found.uses_target, shown)


def _gap(value: float | None) -> str:
    """Format a share with two places: further ones are noise of which items were asked."""
    return "–" if value is None else f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _between(result: AttackResult) -> str:
    if result.gap_low is None or result.gap_high is None:
        return ""
    return f"[{_gap(result.gap_low)}, {_gap(result.gap_high)}]"


def _chart(name: str, results: Sequence[AttackResult | None]) -> Chart | None:
    curves = [result for result in results if result is not None and result.curve and len(result.curve) > 1]
    if not curves:
        return None
    steps = sorted({step for result in curves for step in result.curve or ()})
    # Steps grow like a power, so their places and not their sizes make the axis.
    place = {step: WIDTH * index / (len(steps) - 1) for index, step in enumerate(steps)}
    lines = []
    for shade, result in enumerate(curves):
        pairs = sorted((result.curve or {}).items())
        points = " ".join(f"{place[step]:.1f},{HEIGHT * (1 - min(1.0, max(0.0, y))):.1f}" for step, y in pairs)
        said = f"{number(pairs[0][1])} to {number(pairs[-1][1])}"
        lines.append(Line(result.subject, points, said, shade % 8))
    return Chart(name, tuple(lines), str(steps[0]), str(steps[-1]))
