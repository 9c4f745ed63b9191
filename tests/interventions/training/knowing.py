"""How well a model knows some items."""

from __future__ import annotations

import torch

from hooked import HookedModel, Item
from interventions import Minibatch, forget_nll


@torch.no_grad()
def probability(model: HookedModel, items: tuple[Item, ...]) -> float:
    batch = model.tokenize([i.prompt for i in items], answers=[i.answer for i in items])
    return float(torch.exp(-forget_nll(model, Minibatch(batch, torch.arange(len(items)), None)).mean).mean())
