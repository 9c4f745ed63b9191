"""Data for tiny models: what is forgotten and what is kept use different words, so that their activations differ."""

from __future__ import annotations

import pytest
import torch

from hooked import Item, UnlearnData
from tests.tiny import D_VOCAB, words


def make_items(n: int, *, low: int, high: int, seed: int) -> tuple[Item, ...]:
    """Prompts of three to seven words and answers of one to three, all drawn from a part of the vocabulary."""
    rng = torch.Generator().manual_seed(seed)
    items = []
    for _ in range(n):
        prompt, answer = (int(torch.randint(a, b, (1,), generator=rng)) for a, b in ((3, 8), (1, 4)))
        ids = torch.randint(low, high, (prompt + answer,), generator=rng)
        items.append(Item(words(ids[:prompt]), words(ids[prompt:])))
    return tuple(items)


@pytest.fixture(scope="session")
def tiny_data() -> UnlearnData:
    """Twelve items to forget, forty to keep."""
    return UnlearnData(
        forget=make_items(12, low=3, high=40, seed=1), retain=make_items(40, low=40, high=D_VOCAB, seed=2)
    )
