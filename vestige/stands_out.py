"""Whether the concept vectors that an audit follows are more about the concept than random directions are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from vestige.result import ConceptVectorRow

if TYPE_CHECKING:
    from hooked import HookedModel

# Enough random directions for one vector to stand out among all examined, up to what a large model can afford.
DRAWS_PER_VECTOR, MOST_DRAWS, LEAST_DRAWS = 40, 200_000, 10_000
# A corrected p up to which a vector counts as beyond chance.
SIGNIFICANT = 0.05


def null_draws(model: HookedModel) -> int:
    """Return how many random directions stand behind the p-values of a search over all value vectors."""
    return max(LEAST_DRAWS, min(MOST_DRAWS, DRAWS_PER_VECTOR * model.n_layers * model.d_mlp))


def by_chance(rows: Sequence[ConceptVectorRow]) -> bool:
    """Whether random directions score as high as every vector, so that their fate says nothing of the concept.

    False where that cannot be told: without a corrected p, and in models with so many vectors that no p that the random
    directions allow would survive the correction.
    """
    return bool(rows) and all(
        row.p_adjusted is not None and row.p_adjusted > SIGNIFICANT and row.p_value > 1 / MOST_DRAWS for row in rows
    )
