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
# From here on a vector is more likely chance than not, however few random directions there were.
LIKELY = 0.5


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
    """Return the vectors that are beyond chance: those with a corrected p of at most 0.05.

    Where there is none, those of which it cannot be told: without a corrected p, or with one below 0.5 where there were
    too few random directions for a lone vector to come out.
    """
    beyond = tuple(v for v in vectors if v.p_adjusted is not None and v.p_adjusted <= SIGNIFICANT)
    return beyond or tuple(v for v in vectors if _open(v))


def _open(vector: Tested) -> bool:
    few = vector.p_least is None or vector.p_least > SIGNIFICANT
    return vector.p_adjusted is None or (few and vector.p_adjusted < LIKELY)


def by_chance(vectors: Sequence[Tested]) -> bool:
    """Whether chance gives vectors like all of these, so that their fate says nothing of the concept."""
    return bool(vectors) and not telling(vectors)
