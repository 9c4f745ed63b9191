"""Interventions on weights made part of a model."""

from __future__ import annotations

from copy import deepcopy

from hooked import HookedModel, WeightPatch
from hooked.ledger import patched


def baked(model: HookedModel, patch: WeightPatch | None) -> HookedModel:
    """Return a copy of a model whose weights carry a patch for good."""
    copied = deepcopy(model.model)
    if patch is not None:
        with patched(copied, patch):
            changed = {name: value.clone() for name, value in copied.state_dict().items()}
        copied.load_state_dict(changed)
    return HookedModel(copied, model.tokenizer)
