"""What the benchmark of tampering's strength makes of the records of calibration."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.strength import RATES, SHOWN, TABLES, at, draw, page
from vestige.calibration.evaluate import CONTROL
from vestige.calibration.tampered import RATE

NAMES = ("retrained", CONTROL, "npo")


def test_another_rate_changes_what_was_relearned_and_nothing_else() -> None:
    states = [(name, state) for name in NAMES for state in ("before", "relearned", "quantised")]
    one = {
        "world": 5,
        "subjects": [
            {"name": "taught again", "state": "member", "shares": {"lens_leak": 1.0}},
            *({"name": name, "state": state, "shares": {"lens_leak": 0.1}} for name, state in states),
        ],
    }
    other = {"shares": {f"{rate:g}": {name: {"lens_leak": rate} for name in NAMES} for rate in RATES}}
    assert at(one, other, RATE) == one
    for rate in RATES:
        found = at(one, other, rate)
        assert found["world"] == 5
        for before, after in zip(one["subjects"], found["subjects"], strict=True):
            relearned = before["state"] == "relearned"
            assert after == (before | {"shares": {"lens_leak": rate}} if relearned else before)


def measured(value: float) -> dict[str, Any]:
    row = {"robustness": value, "relearning": value / 2, "n": 3}
    return {
        "instruments": {name: {key: row for key, *_ in TABLES} for name in SHOWN},
        "scores": dict.fromkeys(NAMES, value),
        "before": dict.fromkeys(NAMES, 0.01),
    }


def test_the_page_has_every_rate_beside_the_controls() -> None:
    found = {1e-4: measured(0.3), 5e-4: measured(0.7)}
    lines = list(page(found, {"command": "me", "commit": "abc", "note": "said"}))
    for name in NAMES:
        assert f"| {name} | 0.01 | 0.30 | 0.70 |" in lines
    assert [line for line in lines if line.startswith("| score (quick)")] == [
        "| score (quick) | 0.300 (3) | 0.700 (3) |",
        "| score (quick) | 0.300 (3) | 0.700 (3) |",
        "| score (quick) | 0.150 (3) | 0.350 (3) |",
    ]
    assert "Written by `me`, commit abc." in lines
    text = " ".join(lines)
    assert "At the 2 rates the robustness of the score with attacks lies between 0.30 and 0.70" in text
    assert "relearning robustness of the score alone lies between 0.15 and 0.35" in text
    assert "the best in the first table of robustness is 0.70" in text


def test_the_picture_survives_what_was_not_measured(tmp_path: Path) -> None:
    found = {1e-4: measured(0.3), 5e-4: measured(0.7)}
    for row in found.values():
        row["instruments"][SHOWN[0]]["all"] = None
    draw(found, tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        assert image.width > 1000


def test_the_shipped_page_is_made_from_the_shipped_numbers_which_calibration_has_too() -> None:
    results = Path(__file__).parents[1] / "docs" / "results"
    shipped = json.loads((results / "robustness.json").read_text(encoding="utf-8"))
    found = {float(rate): row for rate, row in shipped["rates"].items()}
    assert (results / "robustness.md").read_text(encoding="utf-8").splitlines() == list(page(found, shipped))
    calibrated = json.loads((results / "calibration.json").read_text(encoding="utf-8"))["instruments"]
    usual = found[RATE]["instruments"]
    for one in calibrated:
        if one["name"] in usual:
            assert usual[one["name"]]["all"]["robustness"] == pytest.approx(one["robustness"])
            assert usual[one["name"]]["forgotten"]["robustness"] == pytest.approx(one["robustness_where_forgotten"])
    assert {one["name"] for one in calibrated} >= set(SHOWN)
