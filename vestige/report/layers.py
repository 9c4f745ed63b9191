"""Layer heat-maps: one value per subject and layer, coloured above chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..result import AuditReport, Result
from .explain import ORIENTATION, Explanation, in_reading_order
from .text import number

STEPS = 11


@dataclass(frozen=True)
class HeatRow:
    """One subject: its values, the colour `step` of each, the control beside each, and its floor (None: not shown)."""

    name: str
    values: tuple[float | None, ...]
    step: tuple[int | None, ...]
    control: tuple[float | None, ...]
    floor: float | None = None
    missing: str = ""


@dataclass(frozen=True)
class Scale:
    """The values at the two ends of the colours. `low_is` says what the lower one is, e.g. chance."""

    low: float
    high: float
    low_is: str = ""

    def step(self, value: float | None) -> int | None:
        """Return the colour of a value, 0 to `STEPS - 1`; values beyond an end get its colour."""
        if value is None:
            return None
        return round((STEPS - 1) * min(1.0, max(0.0, (value - self.low) / (self.high - self.low))))

    def labels(self) -> tuple[str, str]:
        """Return the words at the two ends."""
        low = number(self.low)
        return (f"{low} ({self.low_is}) or less" if self.low_is else low), number(self.high)


@dataclass(frozen=True)
class HeatMap:
    """One check that looks inside. `has_controls`, `has_floors`: each cell carries its control, each row its floor."""

    explanation: Explanation
    orientation: str
    n_layers: int
    rows: tuple[HeatRow, ...]
    scale: Scale
    has_controls: bool
    has_floors: bool


def build_heat_maps(report: AuditReport) -> tuple[HeatMap, ...]:
    """Return a map for every check of a normalised report that has values per layer, in reading order."""
    layered = [result.check for result in report.results if result.per_layer]
    return tuple(_heat_map(report, explanation) for explanation in in_reading_order(layered))


def _heat_map(report: AuditReport, explanation: Explanation) -> HeatMap:
    found = {result.subject: result for result in report.results if result.check == explanation.check}
    rows = [(subject.name, found.get(subject.name)) for subject in report.subjects]
    layered = [result for _, result in rows if result is not None and result.per_layer]
    n_layers = max(len(result.per_layer or ()) for result in layered)
    scale = _scale(layered)
    shared = _shared_control(layered)
    beside = shared is None and any(result.per_layer_control for result in layered)
    if shared is not None and shared not in [result.per_layer for result in layered]:
        rows.append(("control", Result(explanation.check, "control", None, per_layer=shared)))
    heat = tuple(_row(name, result, n_layers, scale, beside) for name, result in rows)
    orientation = ORIENTATION.get(layered[0].higher_is, layered[0].higher_is)
    floors = {result.floor for result in layered}
    return HeatMap(explanation, orientation, n_layers, heat, scale, beside, has_floors=len(floors) > 1)


def _shared_control(results: Sequence[Result]) -> tuple[float, ...] | None:
    """Return the control row that all subjects share, None when they have different ones or none."""
    rows = {result.per_layer_control for result in results if result.per_layer_control}
    return rows.pop() if len(rows) == 1 else None


def _scale(results: Sequence[Result]) -> Scale:
    """Choose the ends of the colours.

    Fractions are always drawn against 1, so that a weak leak looks weak; other units are drawn over their own range.
    """
    values = [value for result in results for value in (result.per_layer or ()) if math.isfinite(value)] or [0.0]
    if min(values) >= 0 and max(values) <= 1:
        floors = {result.floor for result in results if result.floor is not None and 0 <= result.floor < 1}
        return Scale(min(floors), 1.0, "lowest chance" if len(floors) > 1 else "chance") if floors else Scale(0.0, 1.0)
    low, high = min(values), max(values)
    return Scale(low, high if high > low else low + 1.0)


def _row(name: str, result: Result | None, n_layers: int, scale: Scale, beside: bool) -> HeatRow:
    if result is None or not result.per_layer:
        why = result.note if result is not None else ""
        return HeatRow(name, (), (), (), missing=f"not measured: {why or 'no values per layer were given'}")
    values = _padded(result.per_layer, n_layers)
    control = _padded(result.per_layer_control or (), n_layers) if beside else (None,) * n_layers
    return HeatRow(name, values, tuple(map(scale.step, values)), control, result.floor)


def _padded(values: Sequence[float], length: int) -> tuple[float | None, ...]:
    finite = [value if math.isfinite(value) else None for value in values]
    return tuple(finite + [None] * (length - len(finite)))
