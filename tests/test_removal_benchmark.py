"""What the removal benchmark measures on a small organism, and what it concludes from its records."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import removal
from benchmarks.removal import GOALS, METHODS, judged, measured, page
from hooked import HookedModel, Intervention, UnlearnData
from interventions.training import npo
from vestige.calibration.bases import base
from vestige.calibration.pool import make_task
from vestige.organism.model import Shape
from vestige.organism.train import Recipe

SCORE, CERTAIN, STEPS, KEPT = GOALS
CONTROL = {
    "score": 0.02,
    "probability": 0.001,
    "steps": 1.0,
    "bound": "exact",
    "lost_answers": 0.1,
    "lost_utility": 0.0,
}


def record(**changes: Any) -> dict[str, Any]:
    """A concept on which NPO does as well as the retrained model, and distilled removal as it is told."""
    rest = {"seconds": 1.0, "answers": 0.0, "reversed": 0.0, "half_taught": 0.0, "verdict": "No trace found."}
    rows = {"distilled_removal": CONTROL | changes, "npo": CONTROL, "retrained": CONTROL}
    return {"concept": "a", "world": 3, "rows": [{"method": name, **rest, **row} for name, row in rows.items()]}


def test_each_goal_is_held_against_its_control() -> None:
    def reached(goal: str, **changes: Any) -> bool:
        return GOALS[goal]("distilled_removal", record(**changes))

    assert all(reached(goal) for goal in GOALS)
    assert [reached(SCORE, score=x) for x in (0.11, 0.13)] == [True, False]
    assert [reached(CERTAIN, probability=x) for x in (0.1, 0.2, None)] == [True, False, False]
    assert not reached(SCORE, score=None)
    assert [reached(STEPS, steps=x) for x in (0.9, 1 / (10 / 9), 0.89, None)] == [True, True, False, False]
    # Who does not get there took longer than is known; where only the control does not, nothing is shown.
    assert [reached(STEPS, steps=4.2, bound=bound) for bound in ("below", "above")] == [True, False]
    assert [reached(KEPT, lost_answers=x) for x in (-3.0, 1.0, 1.1)] == [True, True, False]
    assert not reached(KEPT, lost_utility=1.1)


def test_the_page_shows_every_method_beside_the_control() -> None:
    records = [record(score=0.3, steps=4.2, bound="below"), record(half_taught=None)]
    relearned = dict.fromkeys((*METHODS, "retrained", "never"), (0.4, 0.9))
    lines = list(page(records, {"command": "me", "commit": "abc", "relearned": relearned}))
    assert "never 0.40 (0.90)" in " ".join(lines)
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}
    assert set(rows) >= {*METHODS, "retrained"}
    assert "0.16 [0.02, 0.30]" in rows["distilled_removal"]
    assert "| 0.00 [0.00, 0.00], 1 not measured | ≥ 4.20, 1.00 |" in rows["distilled_removal"]
    counted = [line for line in lines if line.endswith(" of 2 |")]
    assert [line.split("|")[3].strip() for line in counted] == ["1 of 2", *["2 of 2"] * 7]


def test_a_concept_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(n_layers=2, d_model=16, d_mlp=32, n_heads=2)
    small = base(5, tmp_path, recipe=Recipe(steps=2, batch=4), shape=shape)
    shown: list[UnlearnData] = []

    def noted(model: HookedModel, data: UnlearnData, **settings: Any) -> Intervention:
        shown.append(data)
        return npo(model, data, **settings)

    monkeypatch.setattr(removal, "METHODS", {"npo": (noted, {"epochs": 1})})
    task = make_task(small, 0, seed=1, steps=2)
    few = UnlearnData(task.data.forget[:4], task.data.retain[15:25], task.data.control[:4])
    kept = measured(replace(task, data=few), seed=0, steps=(0, 1))
    found = judged(json.loads(json.dumps(kept)))
    assert "report" not in found
    assert all(row["verdict"] for row in found["rows"])
    assert shown == [task.given]
    assert [row["method"] for row in found["rows"]] == ["npo", "retrained"]
    assert set(kept["control"]) == {0, 1}
    assert all(set(row["curve"]) == {0, 1} for row in kept["rows"])
    # An organism that was taught nothing has nothing to lose.
    assert all(abs(row["lost_answers"]) < 5 for row in found["rows"])
    assert all(row["score"] is None for row in found["rows"])
