"""Patchscope: what is taken over, where, and how often it is normed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from hooked import Item, UnlearnData, VestigeError
from interventions.batches import encode
from probes import answer_probability
from tests.tiny import shared_model, tiny_model
from tests.vestige.attacks.contract import AttackContract, facts
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.inside.patchscope import _host, _patched, _places, _streams, patchscope
from vestige.attacks.notes import notes_of


class TestPatchscope(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return patchscope(target, data, **settings)


class TestPatchscopeAtTheSubject(AttackContract):
    arch = "llama"

    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return patchscope(target, data, at="subject", into=0, layers=[0, 1], **settings)


@pytest.fixture
def target() -> Target:
    model = tiny_model("llama", dtype=torch.float64)
    return Target("original", "original", model, model, notes_of(model, facts()))


@pytest.mark.parametrize("at", ["end", "subject"])
def test_a_stream_put_back_where_it_was_changes_nothing(target: Target, at: Any) -> None:
    model, items = target.view, facts().forget
    batch, places, blocks = encode(model, items), _places(target.view, items, at), range(model.n_layers)
    with torch.no_grad():
        streams = _streams(model, batch, places, blocks)
        for block in blocks:
            found = _patched(model, batch, places, streams[block], block)
            assert found == pytest.approx(answer_probability(model, items).tolist(), abs=1e-12)


def test_behind_the_last_block_one_token_is_what_the_question_itself_says(target: Target) -> None:
    # The vector passes the final norm once: the host has no more to say at that place.
    data = facts()
    data = replace(data, forget=tuple(replace(item, answer=f"t{40 + n}") for n, item in enumerate(data.forget)))
    found = patchscope(target, data, layers=[2])
    assert found.scores == pytest.approx(answer_probability(target.view, data.forget).tolist(), abs=1e-12)


def test_the_block_that_gives_most_away_is_kept(target: Target) -> None:
    found = patchscope(target, facts())
    assert found.per_layer is not None
    assert sum(found.scores) / 6 == pytest.approx(max(found.per_layer))
    each = [patchscope(target, facts(), layers=[block]).per_layer for block in range(3)]
    assert found.per_layer == pytest.approx([row[0] for row in each if row])


def test_places_by_hand() -> None:
    model = shared_model("gpt2")
    items = (Item("t4 t5 t6 is", "t7", subject="t5 t6"), Item("t8 is", "t7", subject="t8"))
    assert _places(model, items, "end").tolist() == [4, 2]
    assert _places(model, items, "subject").tolist() == [3, 1]


def test_the_host_has_the_items_relation_and_never_its_answer() -> None:
    item = Item("the capital of t5 is", "t9", relation="capital", subject="t5")
    pool = (
        Item("the river of t6 is", "t20", relation="river", subject="t6"),
        Item("the capital of t9 is", "t21", relation="capital", subject="t9"),
        Item("the capital of t7 is", "t22", relation="capital", subject="t7"),
    )
    for seed in range(5):
        host = _host(item, pool, "subject", seed=str(seed))
        assert (host.prompt, host.answer) == ("the capital of t7 is", "t9")
    assert _host(item, pool[:1], "end", seed="0").prompt == "the river of t6 is"
    with pytest.raises(VestigeError, match="needs a retain question that holds its subject and not the answer 't9'"):
        _host(item, pool[1:2], "end", seed="0")


def test_errors_are_one_line_and_say_what_came(target: Target) -> None:
    data = facts()
    with pytest.raises(VestigeError, match=r"patchscope needs retain items .*data\.retain has none"):
        patchscope(target, UnlearnData(data.forget))
    nobody = replace(data, forget=(replace(data.forget[0], subject=None),))
    with pytest.raises(VestigeError, match=r"does not hold None; take at='end'"):
        patchscope(target, nobody, at="subject")
