"""Which followed concept vectors are beyond what random directions give."""

from __future__ import annotations

import pytest

from vestige.result import ConceptVectorRow
from vestige.stands_out import by_chance, telling

LEAST = 0.025


def rows(*corrected: float | None, least: float | None = LEAST) -> list[ConceptVectorRow]:
    return [ConceptVectorRow(0, n, 0.5, 0.001, ("a",), {}, {}, one, least) for n, one in enumerate(corrected)]


@pytest.mark.parametrize(
    ("vectors", "left"),
    [
        (rows(0.12, 0.3), []),
        (rows(0.0500001), []),
        (rows(0.05, 0.3, 0.01), [0, 2]),
        # No correction was made, or nobody knows what could have come out, so it cannot be told.
        (rows(None, None), [0, 1]),
        (rows(0.12, 0.6, least=None), [0]),
        # With so few random directions a lone vector could not have come out, but one that many of them beat is chance.
        (rows(0.18, 0.9, least=0.18), [0]),
        (rows(0.9, 0.5, least=0.18), []),
        # Many together can, and then they speak alone.
        (rows(0.02, 0.02, 1.0, 0.18, least=0.18), [0, 1]),
        (rows(), []),
    ],
)
def test_what_tells_is_beyond_chance(vectors: list[ConceptVectorRow], left: list[int]) -> None:
    assert [row.neuron for row in telling(vectors)] == left
    assert by_chance(vectors) is (bool(vectors) and not left)
