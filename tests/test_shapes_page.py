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
    held, total = counts(shipped)["published"]
    assert f"**{held} of {total} published shapes" in text
    assert len(re.findall(r"^\* \d+ \(\d of \d\)", text, re.M)) == sum(of - n for n, of in counts(shipped).values())


def test_the_shipped_numbers_are_of_the_shapes_that_there_are(shipped: dict[str, Any]) -> None:
    assert len(shipped["seeds"]) >= 3
    named = [(s["says"], s["section"], s["kind"], s["source"]) for s in shipped["shapes"]]
    assert named == [(s.says, s.section, s.kind, s.source) for s in SHAPES]
    assert sum(of for _, of in counts(shipped).values()) == len(SHAPES)
    assert len(shipped["not_tested"]) == len(UNTESTED)
