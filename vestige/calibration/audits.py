"""One task of calibration: every member and every tampered model audited together, and what each instrument said."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from hooked import HookedModel, Intervention
from vestige.auditing import audit
from vestige.calibration.bases import base
from vestige.calibration.pool import make_task, members
from vestige.calibration.tampered import tampered
from vestige.result import AuditReport
from vestige.shares import shares_of

STATES = ("before", "relearned", "quantised")


def audited(
    seed: int, which: int, folder: Path, *, suite: str = "quick", tamper: bool = True, max_items: int = 64
) -> Mapping[str, Any]:
    """Return the record of a task, made where it is not in the folder yet.

    Args:
        seed: Of the world.
        which: Index of the concept among its spares.
        folder: Holds bases and records.
        suite: Attacks of the audit.
        tamper: Also make models forget by published methods and tamper with them; what robustness is measured on.
        max_items: Most items per split.

    Returns:
        JSON values: the world, the concept, and for every subject how it was made, whether it knows, and its shares.
    """
    path = record_path(seed, which, folder, suite=suite, tamper=tamper)
    if not path.is_file():
        record = _record(seed, which, folder, suite=suite, tamper=tamper, max_items=max_items)
        scratch = path.with_suffix(".part")
        scratch.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        os.replace(scratch, path)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def record_path(seed: int, which: int, folder: Path, *, suite: str, tamper: bool) -> Path:
    """Return where the record of a task is kept."""
    return folder / f"task-{seed}-{which}-{suite}{'-tampered' if tamper else ''}.json"


def _record(seed: int, which: int, folder: Path, *, suite: str, tamper: bool, max_items: int) -> dict[str, Any]:
    made_of = base(seed, folder)
    task = make_task(made_of, which, seed=seed)
    described: list[dict[str, Any]] = []
    with ExitStack() as stack:
        sources: list[HookedModel] = []
        for member in members(task, made_of, seed=seed):
            described.append({"name": member.name, "knows": member.knows, "over": member.over, "state": "member"})
            sources.append(_opened(member.source, getattr(task, member.over), stack))
        for one in tampered(task, seed=seed) if tamper else ():
            for state in STATES:
                described.append({"name": one.name, "knows": None, "over": "original", "state": state})
                sources.append(getattr(one, state))
        report = audit(
            task.original,
            unlearned=sources,
            data=task.data,
            retrained=task.retrained,
            never=task.never,
            lexicon=[fact.word for fact in made_of.world.facts_of(task.concept)],
            suite=suite,
            seed=seed,
            batch_size=64,
            max_items=max_items,
            progress=False,
        )
    return {
        "world": seed,
        "concept": task.concept.name,
        "suite": suite,
        "subjects": [
            {**described_as, "shares": shares_of(report, name)}
            for described_as, name in zip(described, _names(report), strict=True)
        ],
        "references": {s.kind: shares_of(report, s.name) for s in report.subjects if s.kind != "unlearned"},
    }


def _opened(source: HookedModel | Intervention, over: HookedModel, stack: ExitStack) -> HookedModel:
    return stack.enter_context(source.applied(over)) if isinstance(source, Intervention) else source


def _names(report: AuditReport) -> list[str]:
    return [subject.name for subject in report.subjects if subject.kind == "unlearned"]
