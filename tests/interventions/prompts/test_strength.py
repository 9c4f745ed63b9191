from __future__ import annotations

import pytest

from hooked import VestigeError
from interventions.prompts.strength import SMALLEST, descend


def test_each_step_is_the_divided_difference() -> None:
    found = descend(lambda b: (b - 2) ** 2, steps=3, start=1.0, rate=0.25, spacing=0.5)
    # On a parabola the central difference is the slope 2 (b - 2).
    assert found.trace == pytest.approx((1.0, 1.5, 1.75, 1.875), abs=1e-12)
    # The best of all places that were looked at: 1.5 + .5.
    assert (found.best, found.objective) == (2.0, 0.0)


def test_a_clipped_difference_is_divided_by_its_own_width() -> None:
    found = descend(lambda b: 3 * b, steps=1, start=0.1, rate=0.01, spacing=0.2)
    assert found.trace == pytest.approx((0.1, 0.1 - 0.01 * 3), abs=1e-9)
    upper = descend(lambda b: -3 * b, steps=1, start=0.9, rate=0.01, spacing=0.2, largest=1.0)
    assert upper.trace == pytest.approx((0.9, 0.93), abs=1e-9)


def test_it_stays_inside_its_limits() -> None:
    assert descend(lambda b: b, steps=2, start=0.1, rate=100.0, spacing=0.0999).trace == (0.1, SMALLEST, SMALLEST)
    assert descend(lambda b: -b, steps=2, start=0.1, rate=100.0, spacing=0.0999, largest=1.0).trace == (0.1, 1.0, 1.0)


def test_on_a_plateau_it_stays_and_takes_the_weakest() -> None:
    found = descend(lambda b: 7.0, steps=3, start=1.0, rate=10.0, spacing=0.5)
    assert found.trace == (1.0,) * 4
    assert found.best == 0.5


def test_the_published_rate_diverges_on_a_parabola_and_the_best_is_kept() -> None:
    seen: list[float] = []

    def objective(b: float) -> float:
        seen.append(b)
        return (b - 2) ** 2

    found = descend(objective, steps=6, start=0.1, rate=100.0, spacing=0.0999)
    assert max(found.trace) > 100
    assert found.objective == min((b - 2) ** 2 for b in seen)
    assert len(seen) == len(set(seen)) <= 13


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": 0.0}, "start of the search for a strength is a finite number above 0, got 0"),
        ({"rate": float("inf")}, "rate of the search .* got inf"),
        ({"spacing": -1.0}, "spacing of the search .* got -1"),
        ({"steps": 0}, "at least 1 step, got 0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, float], message: str) -> None:
    given = {"steps": 1, "start": 0.1, "rate": 1.0, "spacing": 0.1, **settings}
    with pytest.raises(VestigeError, match=message):
        descend(lambda b: b, **given)  # type: ignore[arg-type]
