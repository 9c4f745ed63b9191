"""One task of calibration: every member and every tampered model audited together, and what each instrument said."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import torch

from hooked import HookedModel, VestigeError
from vestige.auditing import audit
from vestige.calibration.bases import base
from vestige.calibration.pool import Task, make_task, members
from vestige.calibration.tampered import tampered
from vestige.result import AuditReport
from vestige.shares import shares_of

# Of what members are made of and how they are read; records of another one are not read.
VERSION = 5
STATES = ("before", "relearned", "quantised")
# Not an instrument: what can be told of a model without looking at what it knows.
WEIGHTS = "weight_distance"


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
        JSON values: the world, the concept, and for every subject how it was made, whether it knows, its utility as a
        part of the original's, and its shares, with `weight_distance` beside them.

    Raises:
        VestigeError: The folder has a record of another pool.
    """
    path = record_path(seed, which, folder, suite=suite, tamper=tamper)
    if not path.is_file():
        record = _record(seed, which, folder, suite=suite, tamper=tamper, max_items=max_items)
        scratch = path.with_suffix(".part")
        scratch.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        os.replace(scratch, path)
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if found.get("version") != VERSION or found.get("max_items") != max_items:
        raise VestigeError(
            f"'{path}' was made from another pool (version {found.get('version')}, {found.get('max_items')} items; "
            f"this is version {VERSION}, {max_items} items); remove it, or give another folder"
        )
    return found


def record_path(seed: int, which: int, folder: Path, *, suite: str, tamper: bool) -> Path:
    """Return where the record of a task is kept."""
    return folder / f"task-{seed}-{which}-{suite}{'-tampered' if tamper else ''}.json"


def _record(seed: int, which: int, folder: Path, *, suite: str, tamper: bool, max_items: int) -> dict[str, Any]:
    made_of = base(seed, folder)
    # No two tasks draw the same documents.
    drawn = 100 * seed + which
    task = make_task(made_of, which, seed=drawn)
    described: list[dict[str, Any]] = []
    weights: list[HookedModel] = []
    with ExitStack() as stack:
        sources: list[HookedModel] = []
        for member in members(task, made_of, seed=drawn):
            described.append({"name": member.name, "knows": member.knows, "state": "member"})
            weights.append(member.model)
            hooked = member.hooks.applied(member.model) if member.hooks else nullcontext(member.model)
            sources.append(stack.enter_context(hooked))
        for one in tampered(task, seed=drawn) if tamper else ():
            for state in STATES:
                described.append({"name": one.name, "knows": None, "state": state})
                weights.append(getattr(one, state))
                sources.append(weights[-1])
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
    kept = _kept(report)
    return {
        "version": VERSION,
        "max_items": max_items,
        "world": seed,
        "concept": task.concept.name,
        "suite": suite,
        "subjects": [
            {
                **described_as,
                "utility": kept[name],
                "shares": {**shares_of(report, name), WEIGHTS: _nearer(model, task)},
            }
            for described_as, name, model in zip(described, _names(report), weights, strict=True)
        ],
        "references": {s.kind: shares_of(report, s.name) for s in report.subjects if s.kind != "unlearned"},
    }


def _names(report: AuditReport) -> list[str]:
    return [subject.name for subject in report.subjects if subject.kind == "unlearned"]


def _kept(report: AuditReport) -> dict[str, float | None]:
    """Return each subject's utility as a part of the original's."""
    found = {r.subject: r.estimate for r in report.results if r.check == "model_utility"}
    whole = found.get(report.subjects[0].name)
    return {name: value / whole if value is not None and whole else None for name, value in found.items()}


@torch.no_grad()
def _nearer(model: HookedModel, task: Task) -> float:
    """Return 1 for the weights of the original, 0 for those of the model that never knew, by Euclidean distance."""
    own = dict(model.model.named_parameters())

    def distance(other: HookedModel) -> float:
        squares = (float((p - own[name]).double().square().sum()) for name, p in other.model.named_parameters())
        return math.sqrt(sum(squares))

    original, never = distance(task.original), distance(task.never)
    return never / (original + never)
