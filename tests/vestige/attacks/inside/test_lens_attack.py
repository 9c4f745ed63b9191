"""Lens attacks: which tokens they list, what they read, and what edits at either end of a model do to them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hooked import HookContext, Intervention, Item, Spec, UnlearnData, VestigeError
from tests.tiny import tiny_model
from tests.vestige.attacks.contract import AttackContract, facts
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.inside.lens_attack import lens_attack, select_blocks
from vestige.attacks.inside.lens_candidates import candidates_of, checked, statistic_blocks
from vestige.attacks.notes import notes_of


class TestHeadProjection(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return lens_attack(target, data, budget=5, **settings)


class TestProbabilityDelta(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return lens_attack(target, data, order=1, n_selected=2, **settings)


class TestPublishedProbabilityDeltaSquared(AttackContract):
    arch = "llama"

    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return lens_attack(target, data, order=2, adjacent=False, own_decoder=True, **settings)


@dataclass(frozen=True)
class Blank:
    """Every position becomes the same vector."""

    def __call__(self, activation: Tensor, hook: HookContext) -> Tensor:
        return torch.linspace(-1, 1, activation.shape[-1]).to(activation).expand_as(activation).clone()


@pytest.fixture
def target() -> Target:
    model = tiny_model("gpt2", dtype=torch.float64)
    return Target("original", "original", model, model, notes_of(model, facts()))


def listed(target: Target, **settings: Any) -> Any:
    model, decoder = target.view, target.notes.decoder
    given = {"order": 0, "budget": 6, "layers": None, "adjacent": True, "answer_ids": None, **settings}
    chosen = checked(model, decoder, **given)
    return candidates_of(model, facts().forget, lambda _, acts: decoder.lens(acts), chosen, batch_size=4)


def test_the_last_block_is_normed_once_so_its_candidates_are_the_models_own(target: Target) -> None:
    prompts = [item.prompt for item in facts().forget]
    own = target.view.logits(target.view.tokenize(prompts))[:, -1].topk(6).indices
    assert torch.equal(listed(target).each[-1], own)


def test_lists_by_hand_of_the_distributions(target: Target) -> None:
    model, items = target.view, facts().forget
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{i}.hook_resid_post" for i in range(3))]
    batch = model.tokenize([item.prompt for item in items])
    _, cache = model.run_with_cache(batch, names_filter=names, pos_slice=[-1])
    D = torch.stack([model.lens(cache[name][:, 0]).softmax(-1) for name in names])
    for order in (1, 2):
        rows = D.diff(n=order, dim=0)
        found = listed(target, order=order, budget=1)
        assert found.blocks == tuple(range(order - 1, 3))
        for row, one in zip(rows, found.each, strict=True):
            extremes = torch.stack([row.argmax(-1), row.argmin(-1)], -1)
            further = row.gather(-1, extremes).abs().argmax(-1, keepdim=True)
            assert torch.equal(one, extremes.gather(-1, further))


@pytest.mark.parametrize(
    ("order", "adjacent", "blocks"),
    [(0, True, (0, 2, 4)), (1, True, (0, 2, 4)), (2, True, (2, 4)), (1, False, (2, 4)), (2, False, (4,))],
)
def test_published_differences_lose_a_block_each(order: int, adjacent: bool, blocks: tuple[int, ...]) -> None:
    model = tiny_model("gpt2", n_layer=5)
    settings = checked(
        model, model.decoder, order=order, budget=3, layers=[4, 0, 2], adjacent=adjacent, answer_ids=None
    )
    assert statistic_blocks(settings) == blocks
    found = candidates_of(model, facts().forget, lambda _, acts: model.lens(acts), settings, batch_size=8)
    assert found.each.shape == (len(blocks), 6, 3)


def test_published_differences_are_to_the_selected_block_before(target: Target) -> None:
    near, far = (listed(target, order=1, layers=[0, 2], adjacent=adjacent) for adjacent in (True, False))
    assert not torch.equal(near.each[-1], far.each[-1])
    assert torch.equal(near.each[-1], listed(target, order=1).each[-1])


@pytest.mark.parametrize("order", [0, 1])
def test_an_edit_of_the_last_block_leaves_all_earlier_ones_bit_equal(target: Target, order: Any) -> None:
    before = listed(target, order=order)
    last = target.view.n_layers - 1
    edit = Intervention(Spec("blank", "removal"), edits={f"blocks.{last}.hook_resid_post": Blank()})
    with edit.applied(target.view) as view:
        after = listed(replace(target, view=view), order=order)
    assert torch.equal(before.each[:-1], after.each[:-1])
    assert not torch.equal(before.each[-1], after.each[-1])


@pytest.mark.parametrize("order", [0, 1, 2])
def test_nothing_left_after_the_first_block_scores_the_floor(target: Target, order: Any) -> None:
    edit = Intervention(Spec("blank", "removal"), edits={"blocks.0.hook_resid_post": Blank()})
    # Prompts end in one token, so that the embedding tells them apart no more than the blocks do.
    items = tuple(replace(item, prompt=f"{item.prompt} t4") for item in facts().forget)
    with edit.applied(target.view) as view:
        found = lens_attack(replace(target, view=view), UnlearnData(items), order=order, budget=40)
    assert found.floor == pytest.approx(np.mean(found.scores))


def test_the_decoder_is_the_originals_unless_asked_otherwise(target: Target) -> None:
    blind = tiny_model("gpt2", dtype=torch.float64, tie_word_embeddings=False)
    blind.model.load_state_dict(target.raw.model.state_dict(), strict=False)
    blind.model.lm_head.weight.data.zero_()  # type: ignore[union-attr, operator]
    swapped = replace(target, view=blind, raw=blind)
    assert lens_attack(swapped, facts(), budget=9) == lens_attack(target, facts(), budget=9)
    assert lens_attack(swapped, facts(), budget=9, own_decoder=True) != lens_attack(target, facts(), budget=9)


def test_only_tokens_that_can_be_an_answer_are_listed(target: Target) -> None:
    found = listed(target, answer_ids=[9, 5, 7], budget=2)
    assert set(found.together.flatten().tolist()) <= {5, 7, 9}
    everything = lens_attack(target, facts(), budget=99)
    assert everything.scores == (1.0,) * 6
    assert everything.floor == 1.0


def test_blocks_are_selected_on_kept_facts_alone(target: Target) -> None:
    data = facts()
    settings = checked(
        target.view, target.notes.decoder, order=0, budget=9, layers=None, adjacent=True, answer_ids=None
    )
    kept = select_blocks(target.view, target.notes.decoder, data.retain, settings, n=1, batch_size=4).layers
    rates = lens_attack(target, UnlearnData(data.retain), budget=9).per_layer
    assert rates is not None
    assert kept == (int(np.argmax(rates)),)
    renamed = replace(data, forget=tuple(replace(item, answer="t5") for item in data.forget))
    for task in (data, renamed):
        assert lens_attack(target, task, budget=9, n_selected=1).budget["blocks"] == list(kept)


def test_what_is_said_of_chance(target: Target) -> None:
    found = lens_attack(target, facts(), budget=9)
    assert found.measure == "candidates"
    assert found.budget["candidates"] == 9
    assert "a random list hits 0.091, 95th percentile" in found.note
    alone = lens_attack(target, UnlearnData(facts().forget[:1]), budget=9)
    assert alone.floor == pytest.approx(9 / 99)


def test_errors_are_one_line_and_say_what_came(target: Target) -> None:
    data = facts()
    for settings, message in (
        ({"order": 3}, "order is 0, 1 or 2 differences between blocks, got 3"),
        ({"budget": 0}, "budget is 1 to 99 candidates"),
        ({"budget": 3, "answer_ids": [1, 2]}, "budget is 1 to 2 candidates"),
        ({"answer_ids": [99]}, r"answer_ids needs token ids from 0 to 98, got \[99\]"),
        ({"order": 2, "layers": [0]}, r"2 differences of the 1 blocks \[0\] leave none"),
        ({"n_selected": 4}, "n_selected is 1 to 3 blocks, got 4"),
        ({"order": 1, "adjacent": False, "n_selected": 1}, "n_selected is 2 to 3 blocks, got 1"),
        ({"permutations": 5}, "at least 20 permutations, got 5"),
    ):
        with pytest.raises(VestigeError, match=message):
            lens_attack(target, data, **settings)  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match=r"and data\.retain has none"):
        lens_attack(target, UnlearnData(data.forget), n_selected=1)
    with pytest.raises(VestigeError, match="reads what follows a prompt, and item 0 has no answer"):
        lens_attack(target, UnlearnData((Item("t3", ""),)))
    with pytest.raises(VestigeError, match="reads what follows a prompt, and item 0 has no prompt"):
        lens_attack(target, UnlearnData((Item("", "t3 t4"),)))


def test_a_model_that_diverged_is_no_leak(target: Target) -> None:
    def burst(activation: Tensor, hook: HookContext) -> Tensor:
        return activation * torch.nan

    edit = Intervention(Spec("burst", "removal"), edits={"blocks.1.hook_resid_post": burst})
    with edit.applied(target.view) as view, pytest.raises(VestigeError, match="the lens at block 1 gives NaN"):
        lens_attack(replace(target, view=view), facts())
