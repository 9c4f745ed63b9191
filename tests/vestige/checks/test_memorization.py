"""Exact memorization and extraction strength of whole splits."""

import pytest

from tests.vestige.build import evidence, reading, split
from vestige.checks.memorization import exact_memorization, extraction_strength
from vestige.reading import Reading, Score


def said(*rows: tuple[tuple[int, ...], tuple[int, ...]]) -> Reading:
    """Answers as (predictions, labels)."""
    one = reading(split([0.5] * len(rows)))
    object.__setattr__(one.forget, "answers", tuple(Score((-1.0,) * len(p), p, t) for p, t in rows))
    return one


def test_values_by_hand() -> None:
    # Labels 1234: all right; the second wrong (tail of 2); the last wrong.
    given = evidence(
        {"original": said(((1, 2, 3, 4), (1, 2, 3, 4)), ((1, 9, 3, 4), (1, 2, 3, 4)), ((1, 2, 3, 9), (1, 2, 3, 4)))}
    )
    strength, exact = extraction_strength(given)[0], exact_memorization(given)[0]
    assert strength.per_item == (1.0, 0.5, 0.0)
    assert strength.estimate == pytest.approx(0.5)
    assert exact.per_item == (1.0, 0.75, 0.75)
    assert exact.estimate == pytest.approx(2.5 / 3)
    assert strength.floor == 0.0
    assert exact.floor == pytest.approx(1 / 6)


def test_the_control_stands_beside() -> None:
    given = evidence({"original": said(((1, 2), (1, 2))), "never": said(((0, 2), (1, 2)))})
    assert [r.control for r in exact_memorization(given)] == [0.5, 0.5]
    assert [r.control for r in extraction_strength(given)] == [0.5, 0.5]
