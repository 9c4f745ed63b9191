"""The main table: checks by subjects, each value with its interval, floor, control and remarks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ..result import AuditReport, Result
from .explain import GROUPS, ORIENTATION, Explanation, in_reading_order
from .residual import probability
from .text import interval, number


@dataclass(frozen=True)
class Cell:
    """One value as text. `aside` holds floor, control or n where they differ between the subjects."""

    value: str
    interval: str = ""
    remark: int | None = None
    measured: bool = True
    aside: str = ""


@dataclass(frozen=True)
class Row:
    """One check. `remark` holds for all its cells; `missing` replaces them when no subject could be measured."""

    explanation: Explanation
    orientation: str
    n: str
    cells: tuple[Cell, ...]
    floor: str
    control: str
    remark: int | None = None
    missing: str = ""


@dataclass
class Remarks:
    """Numbered foot notes, each with the title of its check; equal ones share a number."""

    entries: list[tuple[str, str]] = field(default_factory=list)

    def add(self, title: str, text: str) -> int | None:
        """Return the number of this remark, None for an empty one."""
        if not text:
            return None
        if (title, text) not in self.entries:
            self.entries.append((title, text))
        return self.entries.index((title, text)) + 1


@dataclass(frozen=True)
class Table:
    """The table by groups of checks. `score` has a cell per subject, and none where there is no residual knowledge."""

    groups: tuple[tuple[str, tuple[Row, ...]], ...]
    remarks: tuple[tuple[str, str], ...]
    score: tuple[Cell, ...] = ()


def reason(result: Result | None) -> str:
    """Say why there is no value."""
    if result is None:
        return "not measured: this check was not run on this subject"
    return f"not measured: {result.note or 'no reason was given'}"


def build_table(report: AuditReport) -> Table:
    """Lay out all results of a normalised report."""
    remarks = Remarks()
    by_group: dict[str, list[Row]] = {group: [] for group in GROUPS}
    found = {(result.check, result.subject): result for result in report.results}
    for explanation in in_reading_order([result.check for result in report.results]):
        results = [found.get((explanation.check, subject.name)) for subject in report.subjects]
        by_group[explanation.group].append(_row(explanation, results, remarks))
    groups = tuple((group, tuple(rows)) for group, rows in by_group.items() if rows)
    return Table(groups, tuple(remarks.entries), _scores(report))


def _scores(report: AuditReport) -> tuple[Cell, ...]:
    scored = {one.subject: one for one in report.residual}
    return tuple(
        Cell(
            number(scored[subject.name].score),
            f"holds any: {probability(scored[subject.name])}",
            aside="abstains" if scored[subject.name].abstains else "",
        )
        if subject.name in scored
        else Cell("–")
        for subject in report.subjects
        if scored
    )


def _row(explanation: Explanation, results: Sequence[Result | None], remarks: Remarks) -> Row:
    present = [result for result in results if result is not None]
    orientation = ORIENTATION.get(present[0].higher_is, present[0].higher_is)
    if all(result.estimate is None for result in present) and len({result.note for result in present}) == 1:
        return Row(explanation, orientation, "", (), "", "", missing=reason(present[0]))
    measured = [result for result in present if result.estimate is not None]
    floor, control = _shared([r.floor for r in measured]), _shared([r.control for r in measured])
    counts = {result.n for result in measured}
    differ = (floor == _VARIES, control == _VARIES, len(counts) > 1)
    notes = {result.note for result in measured}
    shared = notes.pop() if len(notes) == 1 and len(measured) > 1 else ""
    remark = remarks.add(explanation.title, shared)
    own = [result if result is None or result.note != shared else replace(result, note="") for result in results]
    cells = tuple(_cell(explanation.title, result, remarks, differ) for result in own)
    return Row(explanation, orientation, _counted(counts), cells, floor, control, remark)


_VARIES = "in cells"


def _shared(values: Sequence[float | None]) -> str:
    """Return the value that all results agree on, or say that each cell has its own."""
    different = {value for value in values if value is not None}
    if len(different) > 1:
        return _VARIES
    return number(different.pop()) if different else "–"


def _counted(counts: set[int]) -> str:
    """Return the shared number of items, or its range."""
    if not counts or max(counts) == 0:
        return ""
    shown = str(min(counts)) if len(counts) == 1 else f"{min(counts)} to {max(counts)}"
    return f"n = {shown}".replace(" ", "\u00a0")


def _cell(title: str, result: Result | None, remarks: Remarks, differ: tuple[bool, bool, bool]) -> Cell:
    if result is None or result.estimate is None:
        return Cell("not measured", remark=remarks.add(title, reason(result)), measured=False)
    parts = zip(
        differ, ("chance", "control", "n ="), (number(result.floor), number(result.control), str(result.n)), strict=True
    )
    aside = ", ".join(f"{name} {value}" for shown, name, value in parts if shown and value != "–")
    return Cell(
        number(result.estimate), interval(result.low, result.high), remarks.add(title, result.note), True, aside
    )
