"""Settings that have a smallest value."""

from __future__ import annotations

from hooked.errors import VestigeError


def check_at_least(least: int, **settings: int) -> None:
    """Refuse settings below a value.

    Args:
        least: The smallest that is allowed.
        settings: Name to value.

    Raises:
        VestigeError: One is smaller.
    """
    for name, value in settings.items():
        if value < least:
            raise VestigeError(f"{name} is at least {least}, got {value}")
