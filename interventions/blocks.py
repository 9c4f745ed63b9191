"""Blocks of a model, as people number them."""

from __future__ import annotations

from collections.abc import Sequence

from hooked import HookedModel, VestigeError


def blocks_of(model: HookedModel, layers: Sequence[int]) -> list[int]:
    """Return block numbers counted from 0, each once.

    Raises:
        VestigeError: There is none, or one does not exist.
    """
    wrong = [layer for layer in layers if not -model.n_layers <= layer < model.n_layers]
    if wrong or not len(layers):
        got = wrong[0] if wrong else "none"
        raise VestigeError(
            f"layers are some of 0 to {model.n_layers - 1} (negative ones count from the end), got {got}"
        )
    return sorted({layer % model.n_layers for layer in layers})
