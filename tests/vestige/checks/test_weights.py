"""Weight changes from parameters made by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.vestige.build import by_subject, evidence, reading
from vestige.checks.weights import weight_change
from vestige.intrinsic.weights import Moved


def matrix(name: str, layer: int | None, delta: float, norm: float = 10.0, **lines: float) -> Moved:
    return Moved(name, layer, delta, norm, 2.5 if delta else None, lines.get("rows", 1.0), lines.get("columns", 1.0))


def test_blocks_and_whole_by_hand() -> None:
    still = tuple(matrix(name, layer, 0.0) for name, layer in (("embed", None), ("a", 0), ("b", 1)))
    moved = (still[0], matrix("a", 0, 3.0, columns=0.25), matrix("b", 1, 4.0))
    given = replace(
        evidence({name: reading([0.5]) for name in ("original", "edited", "other", "never")}),
        moved={"original": still, "edited": moved, "other": "its 'a' is missing", "never": moved},
    )
    found = by_subject(weight_change(given))
    assert found["edited"].estimate == pytest.approx(5 / 300**0.5)
    assert found["edited"].per_layer == pytest.approx((0.3, 0.4))
    assert found["edited"].note.startswith("2 of 3 parameters moved; 'b' most, by 0.4 of its norm, in 100% of its rows")
    assert (found["original"].estimate, found["original"].note) == (0.0, "no weight moved")
    assert (found["other"].estimate, found["other"].note) == (None, "its 'a' is missing")
    assert {r.control for r in found.values()} == {found["never"].estimate}
    assert {r.higher_is for r in found.values()} == {"changed"}


def test_the_shorter_list_of_lines_is_named() -> None:
    given = evidence({"original": reading([0.5])})
    (result,) = weight_change(replace(given, moved={"original": (matrix("a", 0, 1.0, columns=0.25),)}))
    assert "in 25% of its columns and about 2.5 directions" in result.note


def test_what_was_not_compared_is_a_reason() -> None:
    assert weight_change(evidence({"original": reading([0.5])}))[0].note == "its weights were not compared"
