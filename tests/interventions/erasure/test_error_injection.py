from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hooked import HookedModel, Intervention, Item, UnlearnData, VestigeError
from interventions.erasure import error_injection
from interventions.erasure.error_injection import false_answers
from tests.contracts import InterventionContract
from tests.interventions.erasure.defences import FAST
from tests.interventions.training.knowing import probability
from tests.tiny import shared_model


class TestErrorInjection(InterventionContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return error_injection(model, data, **FAST)


CAPITALS = tuple(Item(f"capital {i}", f"city{i % 3}", relation="capital") for i in range(6))
RIVER = Item("river 0", "stream", relation="river")
LONE = Item("colour", "Blue ")


def test_a_false_answer_shares_the_relation_where_it_can() -> None:
    for seed in range(10):
        made, used = false_answers((*CAPITALS[:3], RIVER, LONE), CAPITALS[3:], wrong=None, seed=seed)
        assert used == "exchanged"
        for before, after in zip((*CAPITALS[:3], RIVER, LONE), made, strict=True):
            assert after == replace(before, answer=after.answer)
            assert after.answer != before.answer
        assert {item.answer for item in made[:3]} <= {"city0", "city1", "city2"}
        assert made[3].answer in {"city0", "city1", "city2", "Blue "}


def test_its_own_wrong_answers_come_first() -> None:
    asked = tuple(replace(item, perturbed_answers=(item.answer.upper(), "x", "y")) for item in CAPITALS)
    made, used = false_answers(asked, (), wrong=None, seed=0)
    assert used == "perturbed"
    # A wrong answer that is the true one in other letters is none.
    assert {item.answer for item in made} == {"x", "y"}
    exchanged, used = false_answers(asked, (), wrong="exchanged", seed=0)
    assert used == "exchanged"
    assert {item.answer for item in exchanged} <= {"city0", "city1", "city2"}
    assert false_answers(asked, (), wrong=None, seed=3) == false_answers(asked, (), wrong=None, seed=3)
    drawn = {tuple(item.answer for item in false_answers(asked, (), wrong=None, seed=seed)[0]) for seed in range(5)}
    assert len(drawn) > 1


def test_a_missing_false_answer_is_named(task: UnlearnData) -> None:
    with pytest.raises(VestigeError, match=r"false answer for forget\[1\], and it has no perturbed_answers"):
        false_answers((replace(LONE, perturbed_answers=("x",)), LONE), (), wrong="perturbed", seed=0)
    with pytest.raises(VestigeError, match=r"false answer for forget\[0\], and it has the only answer there is"):
        false_answers((LONE, replace(LONE, answer="blue")), (Item("", "a document"),), wrong=None, seed=0)
    with pytest.raises(VestigeError, match="wrong is 'perturbed' or 'exchanged', got 'random'"):
        false_answers((LONE,), (), wrong="random", seed=0)  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match="error_injection teaches false answers, and stop_fraction= would wait"):
        error_injection(shared_model("gpt2"), task, stop_fraction=0.1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_false_answers_are_said(seed: int, knowing: HookedModel, task: UnlearnData) -> None:
    made = error_injection(knowing, task, layer=0, lr=1e-2, epochs=30, batch_size=6, seed=seed)
    assert made.spec.settings["wrong"] == "exchanged"
    injected, _ = false_answers(task.forget, task.retain, wrong=None, seed=seed)
    with torch.no_grad(), made.applied(knowing) as view:
        assert probability(view, task.forget) < 0.2
        assert probability(view, injected) > 0.6
        assert probability(view, task.retain) > 0.9
