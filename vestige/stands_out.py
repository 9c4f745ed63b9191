"""Which of the concept vectors that an audit follows are more about the concept than random directions are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from hooked import HookedModel

# Enough random directions for one vector to stand out among all examined, up to what a large model can afford.
DRAWS_PER_VECTOR, MOST_DRAWS, LEAST_DRAWS = 40, 200_000, 10_000
# A corrected p up to which a vector counts as beyond chance.
SIGNIFICANT = 0.05


class Tested(Protocol):
    """What was held against random directions.

    Args:
        p_adjusted: Its p-value, corrected for the number of vectors examined; None where that was not done.
        p_least: The smallest that could have come out; None where that is not known.
    """

    @property
    def p_adjusted(self) -> float | None: ...

    @property
    def p_least(self) -> float | None: ...


Vector = TypeVar("Vector", bound=Tested)


def null_draws(model: HookedModel) -> int:
    """Return how many random directions stand behind the p-values of a search over all value vectors."""
    return max(LEAST_DRAWS, min(MOST_DRAWS, DRAWS_PER_VECTOR * model.n_layers * model.d_mlp))


def telling(vectors: Sequence[Vector]) -> tuple[Vector, ...]:
    """Return the vectors that are beyond chance: up to a corrected p of 0.05.

    All of them where that cannot be told: without a corrected p, and in models with so many vectors that none could
    have come out with one.
    """
    known = all(v.p_adjusted is not None and v.p_least is not None and v.p_least <= SIGNIFICANT for v in vectors)
    return tuple(v for v in vectors if not known or (v.p_adjusted or 0.0) <= SIGNIFICANT)


def by_chance(vectors: Sequence[Tested]) -> bool:
    """Whether chance gives vectors like all of these, so that their fate says nothing of the concept."""
    return bool(vectors) and not telling(vectors)
