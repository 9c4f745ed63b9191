"""Facts that an attacker knows the answers to, and may try things on: those that were kept."""

from __future__ import annotations

import random

from hooked import Item, UnlearnData, VestigeError


def development_items(data: UnlearnData, *, most: int, seed: int, attack: str) -> tuple[Item, ...]:
    """Return retain items with a prompt and an answer, in random order.

    Args:
        data: Its retain split is used.
        most: How many at most.
        seed: Of the order.
        attack: Who asks, for the message.

    Raises:
        VestigeError: The retain split has none.
    """
    found = [item for item in data.retain if item.prompt and item.answer]
    if not found:
        raise VestigeError(
            f"{attack} needs retain items with a prompt and an answer, and data.retain has none (--retain)"
        )
    return tuple(random.Random(seed).sample(found, min(most, len(found))))
