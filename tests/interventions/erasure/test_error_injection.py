from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hooked import HookedModel, Intervention, Item, UnlearnData, VestigeError
from interventions.erasure import error_injection
from interventions.false_answers import false_answers
from tests.contracts import LossContract
from tests.interventions.erasure.defences import FAST
from tests.interventions.training.knowing import probability
from tests.tiny import shared_model


class TestErrorInjection(LossContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return error_injection(model, data, **FAST)


CAPITALS = tuple(Item(f"capital {i}", f"city{i % 3}", relation="capital") for i in range(6))
RIVER = Item("river 0", "stream", relation="river")
LONE = Item("colour", "Blue ")


def test_a_false_answer_shares_the_relation_where_it_can() -> None:
    for seed in range(10):
        made = false_answers((*CAPITALS[:3], RIVER, LONE), CAPITALS[3:], method="mine", seed=seed)
        for before, after in zip((*CAPITALS[:3], RIVER, LONE), made, strict=True):
            assert after == replace(before, answer=after.answer)
            assert after.answer != before.answer
        assert {item.answer for item in made[:3]} <= {"city0", "city1", "city2"}
        assert made[3].answer in {"city0", "city1", "city2", "Blue "}


def test_its_own_wrong_answers_come_first() -> None:
    asked = tuple(replace(item, perturbed_answers=(item.answer.upper(), "x", "y")) for item in CAPITALS)
    made = false_answers(asked, method="mine", seed=0)
    # A wrong answer that is the true one in other letters is none.
    assert {item.answer for item in made} == {"x", "y"}
    exchanged = false_answers(asked, method="mine", wrong="exchanged", seed=0)
    assert {item.answer for item in exchanged} <= {"city0", "city1", "city2"}
    assert false_answers(asked, method="mine", seed=0) == made
    drawn = {tuple(item.answer for item in false_answers(asked, method="mine", seed=seed)) for seed in range(5)}
    assert len(drawn) > 1
    listed = false_answers((asked[0], CAPITALS[1]), method="mine", seed=0, every=True)
    assert [item.answer for item in listed] == ["x", "y", "city0"]


def test_an_item_and_its_paraphrase_get_the_same_false_answer() -> None:
    asked = tuple(
        replace(item, perturbed_answers=tuple(f"w{i}" for i in range(9)), paraphrased_prompt=f"again {item.prompt}")
        for item in CAPITALS
    )
    twins = tuple(replace(i, prompt=i.paraphrased_prompt or "", paraphrased_prompt=i.prompt) for i in asked)
    made = [item.answer for item in false_answers((*asked, *twins), method="mine", seed=0)]
    assert made[:6] == made[6:]
    assert len(set(made)) > 1


def test_a_missing_false_answer_is_named(task: UnlearnData) -> None:
    with pytest.raises(VestigeError, match=r"mine needs a false answer for item 1, and it has no perturbed_answers"):
        false_answers((replace(LONE, perturbed_answers=("x",)), LONE), method="mine", wrong="perturbed", seed=0)
    with pytest.raises(VestigeError, match=r"false answer for item 0, and it has the only answer there is"):
        false_answers((LONE, replace(LONE, answer="blue")), (Item("", "a document"),), method="mine", seed=0)
    with pytest.raises(VestigeError, match="wrong is 'perturbed' or 'exchanged', got 'random'"):
        error_injection(shared_model("gpt2"), task, wrong="random")  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match="error_injection teaches false answers, and stop_fraction= would wait"):
        error_injection(shared_model("gpt2"), task, stop_fraction=0.1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_false_answers_are_said(seed: int, knowing: HookedModel, task: UnlearnData) -> None:
    made = error_injection(knowing, task, layer=0, lr=1e-2, epochs=30, batch_size=6, seed=seed)
    assert made.spec.settings["wrong"] == "exchanged"
    injected = false_answers(task.forget, task.retain, method="mine", seed=seed)
    assert probability(knowing, injected) < 0.2
    with torch.no_grad(), made.applied(knowing) as view:
        assert probability(view, task.forget) < 0.2
        assert probability(view, injected) > 0.6
        assert probability(view, task.retain) > 0.9
