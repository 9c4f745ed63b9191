"""The short form of a report, for a terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vestige.report.answer import few
from vestige.report.residual import probability
from vestige.result import AuditReport, Result

COLUMNS = {
    "forget_probability": "says it",
    "lens_leak": "lens",
    "probe_leak": "probe",
    "suppression_index": "hidden",
    "retain_probability": "keeps",
}


def print_summary(report: AuditReport) -> None:
    """Print five numbers, the residual knowledge score and the verdict of every subject."""
    scored = {one.subject: one for one in report.residual}
    legend = "says it, lens, probe, hidden: higher means more is left; keeps: higher is better"
    if scored:
        legend += (
            "; score: all of it together, 0 as a model that never knew, 1 as the original, and how likely any is left "
            "(with ? too unsure for a claim)"
        )
    table = Table(title="what it still knows", caption=legend)
    table.add_column("subject")
    for title in COLUMNS.values():
        table.add_column(title, justify="right")
    if scored:
        table.add_column("score", justify="right")
    for subject in report.subjects:
        cells = [_cell(report.result(check, subject.name)) for check in COLUMNS]
        if scored:
            one = scored.get(subject.name)
            cells.append("–" if one is None else f"{one.score:.2f}, {probability(one)}{'?' if one.abstains else ''}")
        table.add_row(Text(subject.name), *cells)
    console = Console()
    console.print(table)
    for subject in report.subjects:
        if subject.kind == "unlearned":
            verdict = Text.assemble((f"{subject.name}: ", "bold"), report.verdicts.get(subject.name, ""))
            # Where there is no terminal, line ends of a made-up width would only be in the way.
            console.print(verdict, soft_wrap=not console.is_terminal)
    if caution := few(report):
        console.print(caution, soft_wrap=not console.is_terminal)


def _cell(result: Result) -> str:
    return "–" if result.estimate is None else f"{result.estimate:.2f}"
