"""Questions to keep in two halves: what methods are given, and what tells what they lost."""

from __future__ import annotations

from dataclasses import replace

from hooked import UnlearnData


def given_and_asked(data: UnlearnData) -> tuple[UnlearnData, UnlearnData]:
    """Return the data with the retain items of every other concept, and with those of the rest."""
    told = set(sorted({str(item.concept) for item in data.retain})[::2])
    given, asked = (
        replace(data, retain=tuple(item for item in data.retain if (str(item.concept) in told) is side))
        for side in (True, False)
    )
    return given, asked
