"""Trying several settings, and keeping the one that got most out of the subject."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from vestige.attacks.attacked import Attacked

Setting = TypeVar("Setting")


def most_leaking(settings: Iterable[Setting], run: Callable[[Setting], Attacked]) -> tuple[Setting, Attacked]:
    """Run an attack with each setting and return the one with the highest mean score, the first of equals.

    The choice is made on the forget items, as an attacker with luck would make it; every subject gets the same choice,
    so that the control shows what luck alone is worth. Queries are those of all runs.
    """
    tried = [(setting, run(setting)) for setting in settings]
    totals = [sum(found.scores) for _, found in tried]
    # NaN compares false with everything: a setting that broke the model is never the best.
    best, found = tried[max(range(len(tried)), key=lambda i: totals[i] if math.isfinite(totals[i]) else -math.inf)]
    queries = sum(int(one.budget["queries"]) for _, one in tried)
    return best, replace(found, budget={**found.budget, "queries": queries})
