"""How near audit-guided removal comes to a model that never knew. Writes docs/results/removal.{md,json}.

On concepts of the worlds that calibration holds out, whose organisms are read from its work folder or trained there:
the residual knowledge score, how soon the facts are learnt again, and what else was lost, beside NPO and the retrained
model. About seven core minutes per concept once the organisms are there; goes on from what is in the folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from benchmarks.timing import commit, machine
from hooked import HookedModel, Intervention
from interventions.training import guided_removal, npo
from vestige.attacks.attacked import Target
from vestige.attacks.notes import notes_of
from vestige.attacks.weights.relearning import relearning
from vestige.auditing import audit
from vestige.calibration.baked import baked
from vestige.calibration.bases import base
from vestige.calibration.pool import Task, make_task
from vestige.metrics.relearning import steps_to
from vestige.shares import shares_of

ROOT = Path(__file__).parents[1]
WORLDS, CONCEPTS = (3, 4), (0, 1)
METHODS: Mapping[str, tuple[Callable[..., Intervention], Mapping[str, Any]]] = {
    "guided_removal": (guided_removal, {}),
    "npo": (npo, {"lr": 1e-3, "epochs": 10}),
}
STEPS = (0, 1, 2, 3, 5, 8, 12, 16, 20, 30, 50)
# What has to be reached: a score this near the retrained model's, so many of the control's steps, so little lost.
SCORE, STEPS_RATIO, POINTS = 0.1, 0.9, 1.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of `python -m benchmarks.calibration`")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    tasks = list(product(WORLDS, CONCEPTS))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(base_of, work=arguments.work), WORLDS))
        records = list(pool.map(partial(record, work=arguments.work), *zip(*tasks, strict=True)))
    about = {"command": "python -m benchmarks.removal", "commit": commit(), "machine": machine()}
    results = ROOT / "docs" / "results"
    (results / "removal.json").write_text(json.dumps({**about, "tasks": records}, indent=1) + "\n", encoding="utf-8")
    (results / "removal.md").write_text("\n".join(page(records, about)) + "\n", encoding="utf-8")


def base_of(world: int, *, work: Path) -> None:
    """Train the organism of a world where it is not there yet."""
    torch.set_num_threads(1)
    base(world, work)


def record(world: int, which: int, *, work: Path) -> dict[str, Any]:
    """Return what was measured on one concept, measured where it is not in the folder yet."""
    path = work / f"removal-{world}-{which}.json"
    if not path.is_file():
        torch.set_num_threads(1)
        task = make_task(base(world, work), which, seed=100 * world + which)
        path.write_text(json.dumps(measured(task, seed=world)), encoding="utf-8")
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def measured(task: Task, *, seed: int, steps: Sequence[int] = STEPS) -> dict[str, Any]:
    """Make one concept forgotten by every method, audit the models and teach them the facts again."""
    models = {
        name: baked(task.original, method(task.original, task.data, seed=seed, progress=False, **settings).weights)
        for name, (method, settings) in METHODS.items()
    }
    report = audit(
        task.original,
        unlearned=list(models.values()),
        data=task.data,
        retrained=task.retrained,
        never=task.never,
        suite="quick",
        seed=seed,
        batch_size=64,
        progress=False,
    )
    named = dict(zip([s.name for s in report.subjects if s.kind == "unlearned"], models, strict=True))
    named |= {s.name: s.kind for s in report.subjects if s.kind == "retrained"}
    residual = {named[one.subject]: one for one in report.residual if one.subject in named}
    models |= {"retrained": task.retrained}
    curves = {name: _curve(model, task, steps, seed=seed) for name, model in models.items()}
    control = _curve(task.never, task, steps, seed=seed)
    known = dict.fromkeys(steps, _curve(task.original, task, steps[:1], seed=seed)[0])
    kept = {s.name: report.result("retain_probability", s.name).estimate or 0.0 for s in report.subjects}
    rows = []
    for subject, name in named.items():
        reached = steps_to(curves[name], control=control, original=known)
        shares = shares_of(report, subject)
        rows.append(
            {
                "method": name,
                "score": residual[name].score,
                "probability": residual[name].probability,
                "verdict": report.verdicts[subject],
                "answers": shares["forget_probability"],
                "reversed": shares["attack:reversed_question"],
                "half_taught": shares["attack:relearning"],
                "steps": None if reached is None or reached.censored else reached.steps,
                "lost": 100 * (kept["original"] - kept[subject]),
                "curve": curves[name],
            }
        )
    reached = steps_to(control, control=control, original=known)
    never = None if reached is None or reached.censored else reached.steps
    return {"concept": task.concept.name, "world": task.seed, "never": never, "control": control, "rows": rows}


def _curve(model: HookedModel, task: Task, steps: Sequence[int], *, seed: int) -> dict[int, float]:
    """Return the mean probability of the answers after some steps of training on them, at the rate that is best."""
    target = Target("one", "unlearned", model, model, notes_of(model, task.data))
    return dict(relearning(target, task.data, on="forget", steps=steps, seed=seed).curve or {})


def page(records: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> Iterator[str]:
    """Return the page, line by line."""
    names = ", ".join(f"{r['world']}:{r['concept']}" for r in records)
    yield from (
        "# Audit-guided removal beside a model that never knew",
        "",
        f"On {len(records)} concepts (world and name: {names}) that no score was fitted on; means, in brackets the",
        "smallest and the largest. *Score* and *probability*: the residual knowledge score with the quick attacks.",
        "*Answers*, *reversed*, *half taught*: what is left of the answers, of whose answer it is, and of one half of",
        "the facts while the other is taught, from 0 (never taught) to 1 (the original). *Steps*: of relearning until",
        "half of the gap is back, over the steps of the model that was taught another concept. *Lost*: points of",
        "probability of the answers to keep. `retrained` is the control: taught by the same documents but these.",
        "",
        f"Written by `{about['command']}`, commit {about['commit']}.",
        "",
        "| method | score | probability | answers | reversed | half taught | steps | lost |",
        "|---|---|---|---|---|---|---|---|",
        *(_row(name, records) for name in (*METHODS, "retrained")),
        "",
        "## Whether the goal is reached",
        "",
        "| goal | method | reached on |",
        "|---|---|---|",
        *(
            f"| {goal} | {name} | {sum(reached(name, r) for r in records)} of {len(records)} |"
            for goal, reached in GOALS.items()
            for name in METHODS
        ),
        "",
        "## What the audit says of each",
        "",
        "| concept | method | verdict |",
        "|---|---|---|",
        *(
            f"| {r['world']}:{r['concept']} | {row['method']} | {row['verdict']} |"
            for r in records
            for row in r["rows"]
        ),
    )


def _of(name: str, one: Mapping[str, Any]) -> Mapping[str, Any]:
    row: Mapping[str, Any] = next(row for row in one["rows"] if row["method"] == name)
    return row


def ratio(name: str, one: Mapping[str, Any]) -> float | None:
    """Return steps to relearn over those of the model that never knew; None where one of the two does not get there."""
    steps = _of(name, one)["steps"]
    return None if steps is None or not one["never"] else steps / one["never"]


GOALS: Mapping[str, Callable[[str, Mapping[str, Any]], bool]] = {
    f"score within {SCORE} of the retrained model's": lambda name, one: (
        abs(_of(name, one)["score"] - _of("retrained", one)["score"]) <= SCORE
    ),
    f"at least {STEPS_RATIO} of the control's steps to relearn": lambda name, one: (
        (ratio(name, one) or 0.0) >= STEPS_RATIO
    ),
    f"at most {POINTS:g} point lost": lambda name, one: _of(name, one)["lost"] <= POINTS,
}


def _row(name: str, records: Sequence[Mapping[str, Any]]) -> str:
    columns = [[_of(name, one)[what] for one in records] for what in ("score", "probability", "answers", "reversed")]
    columns += [[_of(name, one)["half_taught"] for one in records], [ratio(name, one) for one in records]]
    columns.append([_of(name, one)["lost"] for one in records])
    return f"| {name} | {' | '.join(map(_cell, columns))} |"


def _cell(values: Sequence[float | None]) -> str:
    there = [value for value in values if value is not None]
    return f"{mean(there):.2f} [{min(there):.2f}, {max(there):.2f}]" if there else "not reached"


if __name__ == "__main__":
    main()
