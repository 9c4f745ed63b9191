"""What each instrument of an audit says of a subject, on one scale: 0 as a model that never knew, 1 as the original."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite

from vestige.result import AuditReport, Result

# Two ends that lie closer than this make no scale.
APART = 0.05
# Checks whose numbers become shares, in leak orientation.
CHECKS = (
    "forget_probability",
    "paraphrase_probability",
    "forget_rouge",
    "exact_memorization",
    "extraction_strength",
    "lens_leak",
    "probe_leak",
    "depth_leak",
    "raw_depth_leak",
    "lens_depth_leak",
)


def shares_of(report: AuditReport, subject: str) -> dict[str, float | None]:
    """Return the share that every check and every attack of a report gives a subject; nothing is clipped.

    Args:
        report: An audit with a model that never learnt the facts; attacks are called `attack:NAME`.
        subject: Name of the subject.

    Returns:
        Name to share; None where the two ends are less than 0.05 apart or something was not measured.
    """
    table = {(r.check, r.subject): r for r in report.results}
    original = report.subjects[0].name
    found = {check: share(table, check, subject, original) for check in CHECKS if (check, subject) in table}
    gaps = {f"attack:{r.attack}": _finite(r.gap) for r in report.attacks if r.subject == subject}
    return found | gaps


def share(table: Mapping[tuple[str, str], Result], check: str, name: str, original: str) -> float | None:
    """Return where a subject stands between the control (0) and the original (1).

    Args:
        table: Check and subject to result.
        check: Name of the check.
        name: Name of the subject.
        original: Name of the model before unlearning.

    Returns:
        None where something was not measured, or is no finite number, or the two ends are less than 0.05 apart.
    """
    mine, top = table.get((check, name)), table.get((check, original))
    if mine is None or top is None:
        return None
    here, bottom, whole = _finite(mine.estimate), _finite(mine.control), _finite(top.estimate)
    if here is None or bottom is None or whole is None or whole - bottom < APART:
        return None
    return (here - bottom) / (whole - bottom)


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None
