"""What each instrument of an audit says of a subject, on one scale: 0 as a model that never knew, 1 as the original."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite
from typing import NamedTuple

import numpy as np

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


class Share(NamedTuple):
    """Where a subject stands on the scale.

    Args:
        value: 0 as a model that never knew, 1 as the original; not clipped.
        error: Standard error from the choice of items, each compared with itself on the control; 0 where an instrument
            gives no values of items, and that of the value itself where there is one item.
    """

    value: float
    error: float = 0.0

    @property
    def clear(self) -> float:
        """The value less what its noise explains, `v * v^2 / (v^2 + e^2)`: all of it where it is many errors large,
        half of it where it is one, as where a single item makes it.
        """
        square = self.value**2
        return self.value * square / (square + self.error**2) if square else 0.0


def shares_of(report: AuditReport, subject: str) -> dict[str, Share | None]:
    """Return the share that every check and every attack of a report gives a subject.

    Args:
        report: An audit with a model that never learnt the facts; attacks are called `attack:NAME`.
        subject: Name of the subject.

    Returns:
        Name to share; None where the two ends are less than 0.05 apart or something was not measured.
    """
    table = {(r.check, r.subject): r for r in report.results}
    attacks = {(r.attack, r.subject): r for r in report.attacks}
    original = report.subjects[0].name
    control = next((s.name for kind in ("never", "retrained") for s in report.subjects if s.kind == kind), "")

    def of(value: float | None, items: Sequence[float], others: Sequence[float]) -> Share | None:
        return None if value is None else Share(value, _error(value, items, others))

    found = {
        check: of(
            share(table, check, subject, original),
            table[check, subject].per_item,
            table[check, control].per_item if (check, control) in table else (),
        )
        for check in CHECKS
        if (check, subject) in table
    }
    for (name, who), row in attacks.items():
        if who == subject:
            others = attacks[name, control].per_item if (name, control) in attacks else ()
            found[f"attack:{name}"] = of(_finite(row.gap), row.per_item, others)
    return found


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


def _error(value: float, items: Sequence[float], others: Sequence[float]) -> float:
    """Return the standard error of a share, which is as large a part of it as that of the mean difference over items
    is of that difference."""
    if not items or len(items) != len(others):
        return 0.0
    apart = np.subtract(items, others)
    mean = float(apart.mean())
    if len(apart) == 1 or mean == 0:
        return abs(value)
    return abs(value / mean) * float(apart.std(ddof=1)) / float(np.sqrt(len(apart)))


def _finite(value: float | None) -> float | None:
    return value if value is not None and isfinite(value) else None
