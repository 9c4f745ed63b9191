"""Latent adversary: a push within its ball, on prompt tokens alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from hooked import UnlearnData, VestigeError
from interventions.batches import encode
from tests.tiny import tiny_model
from tests.vestige.attacks.contract import AttackContract, facts
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.gradients.latent_pgd import _descended, _nlls, _norm, _pushed, latent_pgd, pushing
from vestige.attacks.notes import notes_of
from vestige.attacks.plain import plain


class TestLatentPGD(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return latent_pgd(target, data, steps=2, **settings)


class TestLatentPGDPerToken(AttackContract):
    arch = "llama"

    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return latent_pgd(target, data, steps=2, radius=0.1, learn_from="same", block=0, **settings)


@pytest.fixture
def target() -> Target:
    model = tiny_model("llama", dtype=torch.float64)
    return Target("original", "original", model, model, notes_of(model, facts()))


def loss(target: Target, **settings: Any) -> float:
    return -float(np.log(latent_pgd(target, facts(), steps=5, **settings).scores).mean())


def test_a_wider_ball_lets_more_through(target: Target) -> None:
    losses = [loss(target, radius=radius, learn_from="same") for radius in (0.02, 0.1, 0.5)]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 1


def test_a_push_of_its_own_for_each_token_beats_one_for_all(target: Target) -> None:
    assert loss(target, radius=0.2, learn_from="same") < loss(target, radius=0.2) - 0.2


@pytest.mark.parametrize("learn_from", ["half", "same"])
def test_without_room_it_is_the_plain_question(target: Target, learn_from: Any) -> None:
    none = latent_pgd(target, facts(), steps=1, radius=1e-9, relative=False, learn_from=learn_from)
    assert none.scores == pytest.approx(plain(target, facts()).scores, rel=1e-6)


@pytest.mark.parametrize("shared", [True, False])
def test_every_push_stays_in_its_ball_and_uses_it(target: Target, shared: bool) -> None:
    model, batch = target.view, encode(target.view, facts().forget)
    shape = (1, 1) if shared else tuple(batch.ids.shape)
    start = torch.zeros(*shape, model.d_model, dtype=torch.float64)
    for parameter in model.model.parameters():
        parameter.requires_grad_(False)
    push = _descended(model, [batch], 1, start, room=0.7, steps=6)
    norms = push.norm(dim=-1)
    assert float(norms.max()) <= 0.7 * (1 + 1e-12)
    if shared:
        assert float(norms.min()) > 0.5
    else:
        # Nothing depends on what is added where nothing is pushed.
        assert torch.equal(norms > 0, _pushed(model, batch))
    assert float(_nlls(model, batch, 1, push).mean()) < float(_nlls(model, batch, 1, start).mean())


def test_answers_padding_and_the_bos_are_left_alone(target: Target) -> None:
    model, batch = target.view, encode(target.view, facts().forget)
    where = _pushed(model, batch)
    assert not bool((where & batch.answer).any())
    assert not bool((where & ~batch.mask).any())
    assert not bool(where[:, 0].any())
    activation = torch.zeros(*batch.ids.shape, 4)
    added = pushing(torch.ones(1, 1, 4), where)(activation, hook=None)  # type: ignore[arg-type]
    assert added is not None
    assert torch.equal(added[..., 0] == 1, where)
    assert not bool(activation.any())


def test_a_relative_radius_counts_in_norms_of_the_stream(target: Target) -> None:
    batch = encode(target.view, facts().forget)
    norm = _norm(target.view, [batch], 1)
    relative = latent_pgd(target, facts(), radius=0.1, block=1, steps=2, learn_from="same")
    absolute = latent_pgd(target, facts(), radius=0.1 * norm, relative=False, block=1, steps=2, learn_from="same")
    assert relative.scores == pytest.approx(absolute.scores)
    assert relative.budget["block"] == 1


def test_errors_are_one_line_and_say_what_came(target: Target) -> None:
    with pytest.raises(VestigeError, match="needs steps of at least 0 and a radius above 0, got 16 and 0"):
        latent_pgd(target, facts(), radius=0)
    with pytest.raises(VestigeError, match="layers are some of 0 to 2"):
        latent_pgd(target, facts(), block=9)
