"""Reading the original once for all attacks."""

from __future__ import annotations

from collections.abc import Sequence

from hooked import HookedModel, UnlearnData
from vestige.attacks.attacked import Notes
from vestige.reading import last_prompt_residuals


def notes_of(
    original: HookedModel, data: UnlearnData, *, vectors: Sequence[tuple[int, int]] = (), batch_size: int = 32
) -> Notes:
    """Write down what attackers may know of the original model.

    Args:
        original: The model before unlearning.
        data: Its forget and retain items are read.
        vectors: Value vectors that are about the concept, as (layer, neuron).
        batch_size: Rows per forward pass.
    """
    prompts = [item.prompt for item in data.forget]
    retained = [item.prompt for item in data.retain if not item.is_document]
    return Notes(
        decoder=original.decoder.frozen(),
        forget=last_prompt_residuals(original, prompts, batch_size=batch_size),
        retain=last_prompt_residuals(original, retained, batch_size=batch_size) if retained else None,
        vectors={at: original.value_vectors(at[0])[at[1]].detach().float().cpu().clone() for at in vectors},
    )
