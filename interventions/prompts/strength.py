"""Finding the strength of a corruption without gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from math import inf, isfinite

from hooked import VestigeError

SMALLEST = 1e-8


@dataclass(frozen=True)
class Search:
    """What a descent visited.

    Args:
        best: The strength with the least objective of all that were tried; of equal ones the weakest.
        objective: Its objective.
        trace: The strength before each step, and after the last.
    """

    best: float
    objective: float
    trace: tuple[float, ...]


def descend(
    objective: Callable[[float], float],
    *,
    steps: int,
    start: float,
    rate: float,
    spacing: float,
    largest: float = inf,
) -> Search:
    """Follow the divided difference of a function of one number downhill.

    `b <- clip(b - rate (f(high) - f(low)) / (high - low))`, `high = b + spacing`, `low = b - spacing`, all clipped to
    `[1e-8, largest]`. The difference is divided by its actual width, which is below `2 spacing` next to a limit.

    Args:
        objective: A deterministic function, evaluated once at each place.
        steps: Number of steps.
        start: First value.
        rate: Step per slope. It has to suit the slopes: above one over the curvature the descent diverges.
        spacing: Half the width of the difference.
        largest: Upper limit.

    Raises:
        VestigeError: A number is out of range.

    Source:
        Liu et al. 2024, arXiv:2406.07933. Their code divides by `2 spacing` also where the lower point is clipped.
    """
    for name, value in (("start", start), ("rate", rate), ("spacing", spacing)):
        if not (isfinite(value) and value > 0):
            raise VestigeError(f"{name} of the search for a strength is a finite number above 0, got {value}")
    if steps < 1:
        raise VestigeError(f"the search for a strength takes at least 1 step, got {steps}")

    def clip(value: float) -> float:
        return min(max(value, SMALLEST), largest)

    seen: dict[float, float] = {}
    value_at = cache(objective)
    trace = [clip(start)]
    for _ in range(steps):
        low, high = clip(trace[-1] - spacing), clip(trace[-1] + spacing)
        seen |= {low: value_at(low), high: value_at(high)}
        trace.append(clip(trace[-1] - rate * (seen[high] - seen[low]) / (high - low)))
    seen[trace[-1]] = value_at(trace[-1])
    best = min(seen, key=lambda strength: (seen[strength], strength))
    return Search(best, seen[best], tuple(trace))
