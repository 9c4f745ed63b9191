"""How near removal comes to a model that never knew. Writes docs/results/removal.{md,json}.

On concepts of the worlds that calibration holds out, whose organisms are read from its work folder or trained there:
the residual knowledge score, how soon the facts are learnt again, and what else was lost, beside NPO and the retrained
model. About eight core minutes per concept once the organisms are there; goes on from what is in the folder.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from inspect import signature
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from textwrap import wrap
from typing import Any

import torch

from benchmarks.calibration import LOOKED_AT
from benchmarks.kept import kept
from benchmarks.timing import commit, machine
from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from interventions.training import distilled_removal, npo
from probes import answer_probability
from vestige.attacks.attacked import Target
from vestige.attacks.notes import notes_of
from vestige.attacks.weights.relearning import relearning
from vestige.auditing import audit
from vestige.calibrate import HELD
from vestige.calibration.audits import VERSION
from vestige.calibration.baked import baked
from vestige.calibration.bases import base
from vestige.calibration.pool import Task, make_task
from vestige.calibration.score import UNSURE
from vestige.metrics.relearning import speed_up
from vestige.report import to_json
from vestige.report.storage import from_json
from vestige.residual import residual_knowledge
from vestige.result import AuditReport
from vestige.shares import shares_of
from vestige.verdict import verdicts

ROOT = Path(__file__).parents[1]
CONCEPTS = (0, 1)
METHODS: Mapping[str, tuple[Callable[..., Intervention], Mapping[str, Any]]] = {
    "distilled_removal": (distilled_removal, {}),
    "npo": (npo, {"lr": 1e-3, "epochs": 10}),
}
STEPS = (*range(21), 25, 30, 40, 50)
# What has to be reached: a score this near the retrained model's, so many of the control's steps, so little lost.
SCORE, STEPS_RATIO, POINTS = 0.1, 0.9, 1.0
LEFT: Mapping[str, str] = {
    "answers": "forget_probability",
    "reversed": "attack:reversed_question",
    "half_taught": "attack:relearning",
}
LOST: Mapping[str, str] = {"lost_answers": "retain_probability", "lost_utility": "model_utility"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of `python -m benchmarks.calibration`")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    tasks = list(product(HELD, CONCEPTS))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        list(pool.map(partial(base_of, work=arguments.work), HELD))
        records = list(map(judged, pool.map(partial(record, work=arguments.work), *zip(*tasks, strict=True))))
    about = {"command": "python -m benchmarks.removal", "commit": commit(), "machine": machine(), "note": LOOKED_AT}
    results = ROOT / "docs" / "results"
    calibrated = json.loads((results / "calibration.json").read_text(encoding="utf-8"))
    about["relearned"] = {
        one["name"]: [mean(one["scores"]["relearned"]), mean(one["probabilities"]["relearned"])]
        for one in calibrated["forgetting"]
    }
    (results / "removal.json").write_text(json.dumps({**about, "tasks": records}, indent=1) + "\n", encoding="utf-8")
    (results / "removal.md").write_text("\n".join(page(records, about)) + "\n", encoding="utf-8")


def base_of(world: int, *, work: Path) -> None:
    """Train the organism of a world where it is not there yet."""
    torch.set_num_threads(1)
    base(world, work)


def record(world: int, which: int, *, work: Path) -> dict[str, Any]:
    """Return what was measured on one concept, measured where the folder does not have it as it is asked for here."""
    asked: dict[str, Any] = {"version": VERSION, "steps": list(STEPS)}
    asked["methods"] = {name: [str(signature(method)), settings] for name, (method, settings) in METHODS.items()}

    def make() -> dict[str, Any]:
        torch.set_num_threads(1)
        return measured(make_task(base(world, work), which, seed=100 * world + which), seed=world)

    return kept(work / f"removal-{world}-{which}.json", asked, make)


def measured(task: Task, *, seed: int, steps: Sequence[int] = STEPS) -> dict[str, Any]:
    """Make one concept forgotten by every method, audit the models and teach them the facts again.

    Methods are given the questions about half of the other concepts to keep; what was lost is measured on the rest.
    """
    models, seconds = {}, {}
    for name, (method, settings) in METHODS.items():
        begun = time.perf_counter()
        made = method(task.original, task.given, seed=seed, progress=False, **settings)
        seconds[name] = round(time.perf_counter() - begun, 1)
        models[name] = baked(task.original, made.weights)
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
    models |= {"retrained": task.retrained}
    control = _curve(task.never, task.data, steps, seed=seed)
    known = dict.fromkeys(control, float(answer_probability(task.original, task.data.forget).mean()))
    rows = []
    for subject, name in named.items():
        shares = shares_of(report, subject)
        curve = _curve(models[name], task.data, steps, seed=seed)
        sooner = speed_up(unlearned=curve, control=control, original=known)
        rows.append(
            {
                "method": name,
                "subject": subject,
                "seconds": seconds.get(name),
                **{what: shares[of] for what, of in LEFT.items()},
                "steps": None if not sooner.value else 1 / sooner.value,
                "bound": sooner.bound,
                **{what: _lost(report, check, subject) for what, check in LOST.items()},
                "curve": curve,
            }
        )
    about = {"concept": task.concept.name, "world": task.seed, "control": control}
    return {**about, "rows": rows, "report": to_json(report)}


def judged(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return a record with what today's scores and verdicts make of its report, in place of that."""
    report = from_json(found["report"])
    residual = residual_knowledge(report)
    said = {one.subject: one for one in residual}
    verdict = verdicts(report.subjects, report.results, residual, report.concept_vectors, report.attacks)
    rows = []
    for row in found["rows"]:
        # None where the items have no scale.
        one = said.get(row["subject"])
        score = {"score": one and one.score, "probability": one and one.probability}
        rows.append({**row, **score, "instruments": one and one.instruments, "verdict": verdict[row["subject"]]})
    return {**{key: value for key, value in found.items() if key != "report"}, "rows": rows}


def _lost(report: AuditReport, check: str, subject: str) -> float:
    """Return how many points of a check a subject has less than the original."""
    before, after = (report.result(check, name).estimate for name in ("original", subject))
    if before is None or after is None:
        raise VestigeError(f"{check} of '{subject}' could not be measured")
    return 100 * (before - after)


def _curve(model: HookedModel, data: UnlearnData, steps: Sequence[int], *, seed: int) -> dict[int, float]:
    """Return the mean probability of the answers after some steps of training on them, at the rate that is best."""
    target = Target("one", "unlearned", model, model, notes_of(model, data))
    return dict(relearning(target, data, on="forget", steps=steps, seed=seed).curve or {})


def page(records: Sequence[Mapping[str, Any]], about: Mapping[str, Any]) -> Iterator[str]:
    """Return the page, line by line."""
    names = ", ".join(f"{r['world']}:{r['concept']}" for r in records)
    yield from (
        "# Removal beside a model that never knew",
        "",
        f"On {len(records)} concepts (world and name: {names}) that no score was fitted on; means, in brackets the",
        "smallest and the largest. *Score* and *probability*: the residual knowledge score with the quick attacks.",
        "*Answers*, *reversed*, *half taught*: what is left of the answers, of whose answer it is, and of one half of",
        "the facts while the other is taught, from 0 (never taught) to 1 (the original). *Steps*: of relearning until",
        "half of the gap is back, over the steps of the model that was taught another concept. *Lost*: points of",
        "probability of answers about concepts that no method was given to keep, and of model utility. *s*: seconds of",
        "the method, on one core with another busy beside it. `retrained` is the control: taught by the same documents",
        "but these. It shows what goes with the concept's own documents.",
        "",
        f"Written by `{about['command']}`, commit {about['commit']}.",
        *wrap(about.get("note", ""), 115),
        "",
        "| method | score | probability | answers | reversed | half taught | steps | lost answers | lost utility | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_row(name, records) for name in (*METHODS, "retrained")),
        "",
        *wrap(_relearned(about["relearned"]), 115),
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


def _relearned(found: Mapping[str, Sequence[float]]) -> str:
    said = ", ".join(f"{name} {found[name][0]:.2f} ({found[name][1]:.2f})" for name in (*METHODS, "retrained", "never"))
    return (
        "This is before anybody tampers with them. After one pass over the facts the mean score, and in brackets the "
        f"probability, are in [calibration.md](calibration.md): {said}. There methods drew with other seeds than here."
    )


def _of(name: str, one: Mapping[str, Any]) -> Mapping[str, Any]:
    row: Mapping[str, Any] = next(row for row in one["rows"] if row["method"] == name)
    return row


def _score(name: str, one: Mapping[str, Any]) -> bool:
    mine, other = (_of(which, one)["score"] for which in (name, "retrained"))
    return None not in (mine, other) and abs(mine - other) <= SCORE


def _certain(name: str, one: Mapping[str, Any]) -> bool:
    probability = _of(name, one)["probability"]
    return probability is not None and probability <= UNSURE[0]


def _steps(name: str, one: Mapping[str, Any]) -> bool:
    # Where only the control does not get there, the true ratio is smaller than what is known.
    row = _of(name, one)
    # Nine steps of ten are not too few by how a quotient is rounded.
    return row["steps"] is not None and row["bound"] != "above" and row["steps"] >= STEPS_RATIO - 1e-9


def _kept(name: str, one: Mapping[str, Any]) -> bool:
    return all(_of(name, one)[what] <= POINTS for what in LOST)


GOALS: Mapping[str, Callable[[str, Mapping[str, Any]], bool]] = {
    f"score within {SCORE} of the retrained model's": _score,
    f"probability that it holds the facts at most {UNSURE[0]}": _certain,
    f"at least {STEPS_RATIO} of the control's steps to relearn": _steps,
    f"at most {POINTS:g} point lost": _kept,
}


def _row(name: str, records: Sequence[Mapping[str, Any]]) -> str:
    rows = [_of(name, one) for one in records]
    cells = [_cell([row[what] for row in rows]) for what in ("score", "probability", "answers", "reversed")]
    cells += [_cell([row["half_taught"] for row in rows]), _ratios(rows), *(_cell([r[w] for r in rows]) for w in LOST)]
    spent = [row["seconds"] for row in rows if row["seconds"] is not None]
    cells.append(f"{mean(spent):.0f}" if spent else "–")
    return f"| {name} | {' | '.join(cells)} |"


def _cell(values: Sequence[float | None]) -> str:
    there = [value for value in values if value is not None]
    lack = f", {len(values) - len(there)} not measured" if len(there) < len(values) else ""
    return f"{mean(there):.2f} [{min(there):.2f}, {max(there):.2f}]{lack}" if there else "not measured"


def _ratios(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return each ratio, with what a curve that does not get there leaves of it."""
    marks = {"exact": "", "below": "≥ ", "above": "≤ "}
    return ", ".join("–" if row["steps"] is None else f"{marks[row['bound']]}{row['steps']:.2f}" for row in rows)


if __name__ == "__main__":
    main()
