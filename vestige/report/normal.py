"""Bring a report into the one form that is shown and stored: consistent names, fixed order, nothing infinite."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from hooked.errors import VestigeError

from ..result import AttackResult, AuditReport, ConceptVectorRow, GenerationRow, Result, WhereMap

_FIELDS = ("estimate", "low", "high", "floor", "control")
_T = TypeVar("_T")


def normalised(report: AuditReport) -> AuditReport:
    """Return an equal report whose mappings follow the order of the subjects and whose numbers are finite or None.

    A value that is not finite becomes None, and the note of its result says so. `per_item` and `per_layer` keep NaN as
    their mark of a missing entry.

    Raises:
        VestigeError: Two subjects share a name, two results share check and subject, a result names an unknown
            subject, or the provenance holds something that is no JSON value.
    """
    names = [subject.name for subject in report.subjects]
    _check_names(report, names)
    return AuditReport(
        provenance=_sorted(report.provenance, "provenance"),
        subjects=report.subjects,
        results=tuple(_finite(result) for result in report.results),
        concept_vectors=tuple(_vector(row, names) for row in report.concept_vectors),
        generations=tuple(_generation(row, names) for row in report.generations),
        verdicts=_ordered(report.verdicts, names),
        latents=report.latents,
        attacks=tuple(_finite_attack(result, names) for result in report.attacks),
        where=tuple(_finite_map(entry, names) for entry in report.where),
        residual=tuple(one for one in report.residual if one.subject in names),
    )


def _check_names(report: AuditReport, names: Sequence[str]) -> None:
    if not names:
        raise VestigeError("a report needs at least one subject, got none")
    for name in names:
        if names.count(name) > 1:
            raise VestigeError(f"subject names must be unique, got {name!r} twice; rename one of them")
    seen: set[tuple[str, str]] = set()
    for result in report.results:
        if result.subject not in names:
            raise VestigeError(
                f"result {result.check!r} names subject {result.subject!r}; the subjects are {', '.join(names)}"
            )
        if (result.check, result.subject) in seen:
            raise VestigeError(
                f"check {result.check!r} has two results for subject {result.subject!r}; a report needs one"
            )
        seen.add((result.check, result.subject))


def _finite(result: Result) -> Result:
    """Replace values that are not finite by None and say so in the note, once."""
    bad = [name for name in _FIELDS if not _is_finite(getattr(result, name))]
    rows = [
        name
        for name in ("per_item", "per_layer", "per_layer_control")
        if not all(map(_is_finite, getattr(result, name) or ()))
    ]
    note = result.note
    for name in (*bad, *rows):
        reason = f"{name} was not finite"
        note = note if reason in note else "; ".join(filter(None, (note, reason)))
    values = {name: tuple(_nan(x) for x in getattr(result, name)) for name in rows}
    return replace(result, note=note, **dict.fromkeys(bad), **values)  # type: ignore[arg-type]


def _finite_attack(result: AttackResult, names: Sequence[str]) -> AttackResult:
    """Replace numbers that are not finite by None; a score that is not finite says so in the note."""
    if result.subject not in names:
        raise VestigeError(
            f"attack {result.attack!r} names subject {result.subject!r}; the subjects are {', '.join(names)}"
        )
    bad = [f.name for f in fields(result) if isinstance(v := getattr(result, f.name), float) and not math.isfinite(v)]
    said = "estimate was not finite"
    note = "; ".join(filter(None, (result.note, said))) if "estimate" in bad else result.note
    changes: dict[str, Any] = {**dict.fromkeys(bad), "note": note, "budget": _sorted(result.budget, "budget")}
    return replace(result, **changes)


def _finite_map(entry: WhereMap, names: Sequence[str]) -> WhereMap:
    """Replace numbers that are not finite by NaN, the mark of a cell that was not measured."""
    if entry.subject not in names:
        raise VestigeError(f"a map names subject {entry.subject!r}; the subjects are {', '.join(names)}")
    grids = {
        name: tuple(tuple(tuple(map(_nan, row)) for row in layers) for layers in getattr(entry, name))
        for name in ("shares", "low", "high", "falls")
    }
    whole = entry.whole if _is_finite(entry.whole) else None
    return replace(entry, whole=whole, **grids)  # type: ignore[arg-type]


def _is_finite(value: float | None) -> bool:
    return value is None or math.isfinite(value)


def _nan(value: float) -> float:
    return value if math.isfinite(value) else math.nan


def _vector(row: ConceptVectorRow, names: Sequence[str]) -> ConceptVectorRow:
    cosine = {name: None if value is None or not math.isfinite(value) else value for name, value in row.cosine.items()}
    return replace(row, after=_ordered(row.after, names), cosine=_ordered(cosine, names))


def _generation(row: GenerationRow, names: Sequence[str]) -> GenerationRow:
    return replace(row, outputs=_ordered(row.outputs, names))


def _ordered(mapping: Mapping[str, _T], names: Sequence[str]) -> dict[str, _T]:
    """Return the entries in subject order, then the others by name."""
    others = sorted(set(mapping) - set(names))
    return {name: mapping[name] for name in (*names, *others) if name in mapping}


def _sorted(value: Any, where: str) -> Any:
    """Return a JSON value with sorted keys and without NaN; raise for anything JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): _sorted(value[key], f"{where}.{key}") for key in sorted(value, key=str)}
    if isinstance(value, (list, tuple)):
        return [_sorted(entry, f"{where}[{index}]") for index, entry in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise VestigeError(
        f"{where} needs a JSON value (text, number, list, mapping), got {type(value).__name__}; convert it to text"
    )
