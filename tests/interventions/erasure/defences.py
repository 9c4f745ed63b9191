"""What the tests of the defences share: quick settings, and how well an attacker reads the lens."""

from __future__ import annotations

from typing import Any

import torch

from hooked import HookedModel, Item
from interventions.batches import encode
from interventions.erasure.lens import first_answer, prompt_lens

FAST: dict[str, Any] = {"lr": 3e-3, "steps": 3, "progress": False}


@torch.no_grad()
def leaked(model: HookedModel, items: tuple[Item, ...], *, k: int = 4) -> list[float]:
    """Return, for each block, the fraction of items whose first answer token is among the k most or least likely."""
    batch = encode(model, items)
    probabilities = prompt_lens(model, batch, range(model.n_layers))[0].softmax(-1)
    index = first_answer(batch).expand(model.n_layers, -1)[..., None]
    ends = [probabilities.topk(k, dim=-1, largest=largest).indices for largest in (True, False)]
    return (torch.cat(ends, -1) == index).any(-1).double().mean(-1).tolist()
