"""`report.json`: strict JSON with a fixed key order, so that the same report is the same bytes, and the way back."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from hooked.errors import VestigeError

from ..features import EditedLatents, Evidence, LatentRow, TokenRow
from ..result import (
    AttackResult,
    AuditReport,
    ConceptVectorRow,
    GenerationRow,
    ResidualKnowledge,
    Result,
    SubjectInfo,
    WhereMap,
)
from .normal import normalised

_SECTIONS = ("provenance", "subjects", "results", "concept_vectors", "generations", "verdicts", "latents")


def to_json(report: AuditReport) -> dict[str, Any]:
    """Return the report as JSON values; NaN and infinities become None, and the result's note says so.

    Raises:
        VestigeError: The report contradicts itself (see `normalised`) or its provenance holds something JSON cannot.
    """
    report = normalised(report)
    return {
        "provenance": dict(report.provenance),
        "subjects": [{"name": s.name, "kind": s.kind, "intent": s.intent, "source": s.source} for s in report.subjects],
        "results": [_result(result) for result in report.results],
        "concept_vectors": [_vector(row) for row in report.concept_vectors],
        "generations": [_generation(row) for row in report.generations],
        "verdicts": dict(report.verdicts),
        "latents": [plain(dataclasses.asdict(entry)) for entry in report.latents],
        "attacks": [_attack(entry) for entry in report.attacks],
        "where": [plain(dataclasses.asdict(entry)) for entry in report.where],
        "residual": [plain(dataclasses.asdict(entry)) for entry in report.residual],
    }


def _result(result: Result) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "check": result.check,
        "subject": result.subject,
        "estimate": result.estimate,
        "low": result.low,
        "high": result.high,
        "n": result.n,
        "floor": result.floor,
        "control": result.control,
        "higher_is": result.higher_is,
        "note": result.note,
    }
    if result.per_layer is not None:
        entry["per_layer"] = _row(result.per_layer)
    if result.per_layer_control is not None:
        entry["per_layer_control"] = _row(result.per_layer_control)
    return entry | {"per_item": _row(result.per_item)}


def _attack(result: AttackResult) -> dict[str, Any]:
    entry: dict[str, Any] = plain(dataclasses.asdict(result))
    if result.curve is not None:
        entry["curve"] = {str(step): value for step, value in sorted(result.curve.items())}
    return entry


def _row(values: Iterable[float]) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values]


def _vector(row: ConceptVectorRow) -> dict[str, Any]:
    return {
        "layer": row.layer,
        "neuron": row.neuron,
        "score": row.score if math.isfinite(row.score) else None,
        "p_value": row.p_value if math.isfinite(row.p_value) else None,
        "p_adjusted": row.p_adjusted,
        "p_least": row.p_least,
        "before": list(row.before),
        "after": {name: list(tokens) for name, tokens in row.after.items()},
        "cosine": dict(row.cosine),
    }


def _generation(row: GenerationRow) -> dict[str, Any]:
    return {"split": row.split, "prompt": row.prompt, "answer": row.answer, "outputs": dict(row.outputs)}


def plain(value: Any) -> Any:
    """Return a tree of JSON values with lists for tuples, and None for numbers that are not finite."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    return [plain(entry) for entry in value] if isinstance(value, tuple | list) else value


def dumps(value: Any) -> str:
    """Return strict ASCII JSON ending in a newline, one line per list of plain values.

    ASCII, because model output may hold bidi overrides and lone surrogates that no viewer should meet raw.
    """
    return _dump(value, "\n") + "\n"


def _dump(value: Any, newline: str) -> str:
    inner = newline + "  "
    if isinstance(value, dict) and value:
        body = f",{inner}".join(f"{json.dumps(key)}: {_dump(entry, inner)}" for key, entry in value.items())
        return f"{{{inner}{body}{newline}}}"
    if isinstance(value, list) and any(isinstance(entry, (dict, list)) for entry in value):
        return f"[{inner}{f',{inner}'.join(_dump(entry, inner) for entry in value)}{newline}]"
    return json.dumps(value, allow_nan=False)


def read_json(path: Path) -> AuditReport:
    """Read a report that `write_report` wrote.

    Raises:
        VestigeError: The file is missing, is not strict JSON, or lacks a field of a report.
    """
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse)
    except (OSError, ValueError) as error:
        raise VestigeError(f"cannot read a report from {path}: {error}") from None
    try:
        return from_json(data)
    except VestigeError as error:
        raise VestigeError(f"{path} is not a report: {error}") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not strict JSON")


def from_json(data: Any) -> AuditReport:
    """Build a report from the values of `to_json`; null in a row of numbers becomes NaN.

    Raises:
        VestigeError: A section or field is missing or of the wrong type.
    """
    if not isinstance(data, Mapping) or (missing := [name for name in _SECTIONS if name not in data]):
        absent = ", ".join(missing) if isinstance(data, Mapping) else "everything"
        raise VestigeError(f"a report needs the sections {', '.join(_SECTIONS)}; missing: {absent}")
    try:
        report = AuditReport(
            provenance=dict(data["provenance"]),
            subjects=tuple(SubjectInfo(**entry) for entry in data["subjects"]),
            results=tuple(_read_result(entry) for entry in data["results"]),
            concept_vectors=tuple(_read_vector(entry) for entry in data["concept_vectors"]),
            generations=tuple(GenerationRow(**entry) for entry in data["generations"]),
            verdicts=dict(data["verdicts"]),
            latents=tuple(_read_latents(entry) for entry in data["latents"]),
            attacks=tuple(_read_attack(entry) for entry in data.get("attacks", ())),
            where=tuple(_read_where(entry) for entry in data.get("where", ())),
            residual=tuple(
                ResidualKnowledge(**{**entry, "missing": tuple(entry["missing"])}) for entry in data.get("residual", ())
            ),
        )
        return normalised(report)
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise VestigeError(f"a field is missing, unknown or of the wrong type ({error})") from None


def _read_result(entry: Mapping[str, Any]) -> Result:
    rows = {
        name: _floats(entry[name])
        for name in ("per_item", "per_layer", "per_layer_control")
        if entry.get(name) is not None
    }
    return Result(**{**entry, **rows})


def _read_attack(entry: Mapping[str, Any]) -> AttackResult:
    rows = {name: _floats(entry[name]) for name in ("per_item", "per_layer") if entry[name] is not None}
    curve = None if entry["curve"] is None else {int(step): float(y) for step, y in entry["curve"].items()}
    return AttackResult(**{**entry, **rows, "curve": curve})


def _read_where(entry: Mapping[str, Any]) -> WhereMap:
    names = {name: tuple(entry[name]) for name in ("components", "positions", "counts")}
    grids = {
        name: tuple(tuple(_floats(row) for row in layers) for layers in entry[name])
        for name in ("shares", "low", "high", "falls")
    }
    clear = tuple(tuple(tuple(int(value) for value in row) for row in layers) for layers in entry["clear"])
    return WhereMap(**{**entry, **names, **grids, "clear": clear})


def _read_latents(entry: Mapping[str, Any]) -> EditedLatents:
    return EditedLatents(
        entry["subject"], entry["site"], entry["number"], tuple(_read_latent(row) for row in entry["rows"])
    )


def _read_latent(row: Mapping[str, Any]) -> LatentRow:
    sides = {name: tuple((str(token), float(z)) for token, z in row[name]) for name in ("promotes", "suppresses")}
    texts = [
        TokenRow(**{**text, "tokens": tuple(text["tokens"]), "values": tuple(text["values"])})
        for text in row["examples"]
    ]
    evidence = None if row["evidence"] is None else Evidence(**row["evidence"])
    fixed = {"histogram": tuple(row["histogram"]), "examples": tuple(texts), "evidence": evidence}
    return LatentRow(**{**row, **sides, **fixed})


def _floats(values: Iterable[float | None]) -> tuple[float, ...]:
    return tuple(math.nan if value is None else float(value) for value in values)


def _read_vector(entry: Mapping[str, Any]) -> ConceptVectorRow:
    numbers = {name: math.nan if entry[name] is None else float(entry[name]) for name in ("score", "p_value")}
    after = {name: tuple(tokens) for name, tokens in entry["after"].items()}
    return ConceptVectorRow(**{**entry, **numbers, "before": tuple(entry["before"]), "after": after})
