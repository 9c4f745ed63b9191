"""Arguments that many searches and scores share."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from hooked.errors import VestigeError


def check_counts(least: int = 1, **counts: Any) -> None:
    """Refuse a count that is no whole number or too small.

    Raises:
        VestigeError: A count is below `least`.
    """
    for name, count in counts.items():
        if not isinstance(count, Integral) or count < least:
            raise VestigeError(f"{name} is a whole number of at least {least}, got {count!r}")


def check_level(level: float) -> None:
    """Refuse what is no error rate.

    Raises:
        VestigeError: The level is outside (0, 1).
    """
    if not 0 < level < 1:
        raise VestigeError(f"level is an error rate in (0, 1), got {level}")
