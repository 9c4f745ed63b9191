"""What an optimising attack learns from, and what it is scored on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hooked import Item, UnlearnData, VestigeError
from vestige.attacks.development import development_items
from vestige.attacks.halves import two_halves

LearnFrom = Literal["half", "same", "retain"]


@dataclass(frozen=True)
class Fold:
    """One run of an attack.

    Args:
        learnt: Items whose answers it is shown.
        scored: Rows of the forget items that it is scored on.
    """

    learnt: tuple[Item, ...]
    scored: tuple[int, ...]


def folds_of(data: UnlearnData, learn_from: LearnFrom, *, most: int, seed: int, attack: str) -> tuple[Fold, ...]:
    """Return the runs of an attack, which together score every forget item once.

    Args:
        data: The task.
        learn_from: `half`: two runs, each shown one half of the forget facts and scored on the other; `same`: one run,
            shown the very answers that it is scored on, an upper bound; `retain`: one run, shown kept facts.
        most: How many retain items at most.
        seed: Of the halves and the choice among the retain items.
        attack: Who asks, for messages.

    Raises:
        VestigeError: The forget items cannot be halved, or there is no retain item.
    """
    everything = tuple(range(len(data.forget)))
    if learn_from == "same":
        return (Fold(data.forget, everything),)
    if learn_from == "retain":
        return (Fold(development_items(data, most=most, seed=seed, attack=attack), everything),)
    if learn_from != "half":
        raise VestigeError(f"{attack} learns from 'half', 'same' or 'retain', got {learn_from!r}")
    one, other = (tuple(rows) for rows in two_halves(data.forget, seed=seed))
    return tuple(
        Fold(tuple(data.forget[row] for row in learnt), scored) for learnt, scored in ((one, other), (other, one))
    )
