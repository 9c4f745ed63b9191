"""Whether followed concept vectors are beyond what random directions give."""

from __future__ import annotations

import pytest

from vestige.result import ConceptVectorRow
from vestige.stands_out import MOST_DRAWS, by_chance


def rows(*found: tuple[float, float | None]) -> list[ConceptVectorRow]:
    return [ConceptVectorRow(0, n, 0.5, p, ("a",), {}, {}, corrected) for n, (p, corrected) in enumerate(found)]


@pytest.mark.parametrize(
    ("found", "chance"),
    [
        ([(0.001, 0.12), (0.002, 0.3)], True),
        ([(0.001, 0.0500001)], True),
        ([(0.001, 0.05), (0.002, 0.3)], False),
        # No correction was made, so it cannot be told.
        ([(0.001, None), (0.9, None)], False),
        ([], False),
        # None of the most directions that are drawn scores as high: with more of them it might be beyond chance.
        ([(1 / (MOST_DRAWS + 1), 0.9), (0.002, 0.9)], False),
        ([(2 / (MOST_DRAWS + 1), 0.9)], True),
    ],
)
def test_by_chance(found: list[tuple[float, float | None]], chance: bool) -> None:
    assert by_chance(rows(*found)) is chance
