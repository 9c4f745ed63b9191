"""Data for tiny models: what is forgotten and what is kept use different words, so that their activations differ."""

from __future__ import annotations

import pytest
import torch

from hooked import HookedModel, Intervention, Item, Spec, UnlearnData
from interventions import cross_entropy, forget_nll, train
from tests.tiny import D_VOCAB, tiny_model, words


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


@pytest.fixture(scope="session")
def task() -> UnlearnData:
    return UnlearnData(make_items(6, low=3, high=40, seed=1), make_items(12, low=40, high=99, seed=2))


@pytest.fixture(scope="session")
def knowing(task: UnlearnData) -> HookedModel:
    """A model that was taught every answer of the task."""
    model = tiny_model("llama")
    everything = UnlearnData(task.forget + task.retain)
    taught = train(model, everything, lambda m, b: cross_entropy(forget_nll(m, b)), epochs=40, lr=1e-2, progress=False)
    with Intervention(Spec("teach", "attack"), weights=taught.patch).applied(model) as view:
        state = {name: tensor.clone() for name, tensor in view.model.state_dict().items()}
    # For good: a patch that stays in force through the session would be seen by tests of other things.
    model.model.load_state_dict(state)
    return model
