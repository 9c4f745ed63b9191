"""How attacks that only ask are scored: the probability of each answer after its prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hooked import HookedModel, Item
from probes import answer_probability
from vestige.attacks.attacked import Attacked, Measure


@torch.no_grad()
def asked(
    model: HookedModel, items: Sequence[Item], *, batch_size: int, note: str = "", measure: Measure = "probability"
) -> Attacked:
    """Score the answers of prepared items; one query each.

    Raises:
        VestigeError: There is no item, or one has no answer.
    """
    scores = answer_probability(model, items, batch_size=batch_size)
    return Attacked(tuple(scores.tolist()), measure, budget={"queries": len(items)}, note=note)
