"""`vestige attacks`, which lists them, and what `vestige attack` prints."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hooked import VestigeError
from vestige.attacks.catalogue import ATTACKS
from vestige.commands.aligned import aligned
from vestige.result import AttackResult, AuditReport


def rows() -> list[dict[str, Any]]:
    """Return the table as JSON values."""
    return [{key: value for key, value in asdict(one).items() if key != "home"} for one in ATTACKS.values()]


def lines() -> list[str]:
    """Lay all attacks out as text."""
    table = [("attack", "needs", "shown answers", "suite", "what it does")]
    for one in ATTACKS.values():
        table.append((one.name, one.access, "yes" if one.uses_target else "", one.suite, one.says))
    return aligned(table)


def check_run(report: AuditReport) -> None:
    """Refuse a report in which no attack could be run.

    Raises:
        VestigeError: That is so; the message has the first reason.
    """
    if not any(one.estimate is not None for one in report.attacks):
        why = next((f": {one.attack}: {one.note}" for one in report.attacks if one.note), "")
        raise VestigeError(f"no attack could be run{why}")


def print_table(report: AuditReport) -> None:
    """Print the recovery gap of every attack on every subject, and the worst of each."""
    subjects = [subject for subject in report.subjects if subject.kind in ("unlearned", "original")]
    shown = {subject.name for subject in subjects}
    bare = any(one.estimate is not None and one.gap is None for one in report.attacks if one.subject in shown)
    table = Table(
        title="what attacks recover",
        caption=(
            f"{'In brackets: scores as they are, where there is nothing to count them from. ' if bare else ''}"
            "0: no more than a model that never knew gives under the same attack; 1: as much as the original, asked "
            "plainly where the probability of the answer is scored and under the same attack elsewhere. Below 0: less "
            "than that model gives; above 1: more than the original"
        ),
    )
    table.add_column("attack")
    for subject in subjects:
        table.add_column(Text(subject.name), justify="right")
    table.add_column("control's score", justify="right")
    found = {(result.attack, result.subject): result for result in report.attacks}
    for name in dict.fromkeys(result.attack for result in report.attacks):
        there = [found[name, subject.name] for subject in subjects]
        control = next((r.control for r in there if r.control is not None), None)
        table.add_row(name, *map(_cell, there), "–" if control is None else f"{control:.2f}")
    console = Console()
    console.print(table)
    for note in dict.fromkeys(f"{r.attack}: {r.note}" for r in report.attacks if r.estimate is None):
        console.print(f"not run, {note}", soft_wrap=not console.is_terminal)


def _cell(result: AttackResult) -> str:
    if result.estimate is None:
        return "–"
    return f"({result.estimate:.2f})" if result.gap is None else f"{result.gap:.2f}"
