"""What the removal benchmark concludes from its records."""

from __future__ import annotations

from typing import Any

from benchmarks.removal import GOALS, METHODS, page, ratio

SCORE, STEPS, LOST = GOALS
CONTROL = {"score": 0.02, "probability": 0.001, "steps": 12, "lost": 0.1}


def record(**guided: Any) -> dict[str, Any]:
    """A concept on which NPO does as well as the retrained model, and guided removal as it is told."""
    rest = {"answers": 0.0, "reversed": 0.0, "half_taught": 0.0, "verdict": "No trace found."}
    rows = {"guided_removal": CONTROL | guided, "npo": CONTROL, "retrained": CONTROL}
    return {
        "concept": "a",
        "world": 3,
        "never": 12,
        "rows": [{"method": name, **rest, **row} for name, row in rows.items()],
    }


def test_each_goal_is_held_against_its_control() -> None:
    def reached(goal: str, **guided: Any) -> bool:
        return GOALS[goal]("guided_removal", record(**guided))

    assert all(reached(goal) for goal in GOALS)
    assert [reached(SCORE, score=x) for x in (0.11, 0.13)] == [True, False]
    assert [reached(STEPS, steps=x) for x in (11, 10, None)] == [True, False, False]
    assert [reached(LOST, lost=x) for x in (-3.0, 1.0, 1.1)] == [True, True, False]


def test_a_control_that_is_never_taught_the_facts_gives_no_ratio() -> None:
    assert ratio("npo", record()) == 1
    assert ratio("npo", record() | {"never": None}) is None


def test_the_page_shows_every_method_beside_the_control() -> None:
    lines = list(page([record(score=0.3), record()], {"command": "me", "commit": "abc"}))
    rows = {line.split("|")[1].strip(): line for line in lines if line.startswith("| ")}
    assert set(rows) >= {*METHODS, "retrained"}
    assert "0.16 [0.02, 0.30]" in rows["guided_removal"]
    counted = [line for line in lines if line.endswith(" of 2 |")]
    assert [line.split("|")[3].strip() for line in counted] == ["1 of 2", *["2 of 2"] * 5]
