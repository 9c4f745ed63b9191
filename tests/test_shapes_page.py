"""The shipped page of shapes is made from the shipped numbers, and these are of the shapes that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks.shapes.page import SHAPES, counts, page
from benchmarks.shapes.untested import UNTESTED

RESULTS = Path(__file__).parents[1] / "docs" / "results"


@pytest.fixture(scope="module")
def shipped() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / "shapes.json").read_text(encoding="utf-8"))
    return found


def test_the_shipped_page_is_made_from_the_shipped_numbers(shipped: dict[str, Any]) -> None:
    text = (RESULTS / "shapes.md").read_text(encoding="utf-8")
    assert text.splitlines() == list(page(shipped))
    published = counts(shipped)["published"]
    assert f"**{published.every} of {published.n} (" in text
    assert f"and {published.three} of {published.n} (" in text
    missed = sum(one.n - one.every for one in counts(shipped).values())
    assert len(re.findall(r"^\* \d+ \(\d of \d\)", text, re.M)) == missed


def test_a_page_without_the_fresh_seed_does_not_speak_of_it(shipped: dict[str, Any]) -> None:
    said = f"Of seed {shipped['fresh']} nothing was known"
    assert any(line.startswith(said) for line in page(shipped))
    others = [seed for seed in shipped["seeds"] if seed != shipped["fresh"]]
    assert not any(line.startswith(said) for line in page({**shipped, "seeds": others}))


def test_the_shipped_numbers_are_of_the_shapes_that_there_are(shipped: dict[str, Any]) -> None:
    assert len(shipped["seeds"]) >= 3
    named = [(s["says"], s["section"], s["kind"], s["source"]) for s in shipped["shapes"]]
    assert named == [(s.says, s.section, s.kind, s.source) for s in SHAPES]
    assert sum(one.n for one in counts(shipped).values()) == len(SHAPES)
    assert len(shipped["not_tested"]) == len(UNTESTED)
