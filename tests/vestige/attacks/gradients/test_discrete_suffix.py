"""Discrete suffixes: the gradient names tokens, the loss decides, and only ordinary tokens are used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hooked import UnlearnData, VestigeError
from tests.tiny import D_VOCAB, shared_model, tiny_model
from tests.vestige.attacks.contract import AttackContract, facts
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.gradients.discrete_suffix import _exchanged, _named, _one_hot_gradient, _ordinary, discrete_suffix
from vestige.attacks.gradients.slots import filling, mean_nlls, with_slots
from vestige.attacks.notes import notes_of


class TestDiscreteSuffix(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return discrete_suffix(target, data, n_tokens=2, steps=2, swaps=3, candidates=5, **settings)


@pytest.fixture
def target() -> Target:
    model = tiny_model("llama")
    return Target("original", "original", model, model, notes_of(model, facts()))


def loss(target: Target, **settings: Any) -> float:
    found = discrete_suffix(target, facts(), n_tokens=3, place="front", learn_from="same", **settings)
    return -float(np.log(found.scores).mean())


def test_with_the_same_facts_it_learns_their_answers(target: Target) -> None:
    assert loss(target, steps=4) < loss(target, steps=0) - 0.2


def test_an_exchange_that_does_not_help_is_not_kept(target: Target) -> None:
    # One exchange a round, out of all tokens: most of them do harm.
    losses = [loss(target, steps=steps, swaps=1, candidates=99) for steps in range(6)]
    assert losses == sorted(losses, reverse=True)
    assert len(set(losses)) < len(losses)


def test_the_tokens_that_lower_the_loss_most_are_named() -> None:
    gradient = torch.tensor([[3.0, -9.0, -1.0, 0.0, -2.0], [0.0, -9.0, 5.0, -4.0, 1.0]])
    allowed = torch.tensor([True, False, True, True, True])
    assert _named(gradient, allowed, 2).tolist() == [[4, 2], [3, 0]]
    assert _named(gradient, allowed, 9).shape == (2, 4)


def test_the_gradient_is_that_of_a_one_hot_choice() -> None:
    model = tiny_model("gpt2", dtype=torch.float64)
    slots = with_slots(model, facts().forget, 2, place="end").filled(torch.tensor([20, 21]))
    one_hot = torch.nn.functional.one_hot(torch.tensor([20, 21]), D_VOCAB).double().requires_grad_()
    loss = mean_nlls(model, slots.batch, ("hook_embed", filling(slots, one_hot @ model.W_E))).sum()
    expected = torch.autograd.grad(loss, one_hot)[0]
    found = _one_hot_gradient(model, slots, batch_size=4)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_one_place_is_exchanged_at_a_time_and_for_a_named_token(rng: torch.Generator) -> None:
    suffix, named = torch.tensor([5, 6, 7]), torch.arange(30, 42).view(3, 4)
    tried = _exchanged(suffix, named, 50, rng)
    changed = tried != suffix
    assert changed.sum(-1).tolist() == [1] * 50
    for place in range(3):
        assert set(tried[changed[:, place], place].tolist()) == set(named[place].tolist())


def test_special_and_padded_tokens_are_not_used() -> None:
    model = shared_model("gpt2")
    assert (~_ordinary(model)).nonzero()[:, 0].tolist() == [0, 1, 2]
    wider = tiny_model("gpt2", vocab_size=D_VOCAB + 5)
    assert (~_ordinary(wider)).nonzero()[:, 0].tolist() == [0, 1, 2, *range(D_VOCAB, D_VOCAB + 5)]


def test_what_was_spent(target: Target) -> None:
    found = discrete_suffix(target, facts(), n_tokens=2, steps=3, swaps=4, learn_from="same", place="front")
    assert found.budget["queries"] == 3 * (2 + 4) * 6 + 6 + 6
    assert (found.budget["place"], found.budget["tokens"]) == ("front", 2)


def test_errors_are_one_line_and_say_what_came(target: Target) -> None:
    with pytest.raises(VestigeError, match="steps >= 0, candidates >= 1, swaps >= 1; got 1, 0, 2"):
        discrete_suffix(target, facts(), steps=1, candidates=0, swaps=2)
