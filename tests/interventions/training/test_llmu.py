from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from hooked import HookedModel, Intervention, Item, UnlearnData, VestigeError
from interventions.batches import encode
from interventions.training.llmu import llmu, llmu_loss, random_answers
from interventions.training.losses import AnswerNLL
from tests.contracts import LossContract
from tests.interventions.training.knowing import probability
from tests.interventions.training.test_losses import CURRENT, IDK_TARGETS, gradient, nll_of
from tests.tiny import BOS, shared_model, words

FAST: dict[str, Any] = {"lr": 3e-3, "steps": 3, "progress": False}


class TestLLMU(LossContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return llmu(model, data, **FAST)


class TestAscentAlone(LossContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return llmu(model, data, random_weight=0.0, retain_weight=0.0, **FAST)


def test_reference_values() -> None:
    forget, random = nll_of(CURRENT), nll_of(CURRENT, IDK_TARGETS)
    assert llmu_loss(forget, None, forget_weight=1.0).item() == pytest.approx(-1.345827, abs=1e-6)
    assert llmu_loss(forget, random).item() == pytest.approx(-0.5 * 1.345827 + 3.037482 / 3, abs=1e-6)
    assert llmu_loss(forget, random, random_weight=2.0, stop_ce=1.0).item() == pytest.approx(
        -0.5 + 2 * 3.037482 / 3, abs=1e-6
    )


def test_answers_that_have_reached_stop_ce_have_no_pull() -> None:
    assert gradient(lambda a: llmu_loss(nll_of(a), None, stop_ce=1.0), CURRENT).abs().max() == 0
    below = gradient(lambda a: llmu_loss(nll_of(a), None, stop_ce=2.0), CURRENT)
    assert torch.equal(below, gradient(lambda a: llmu_loss(nll_of(a), None), CURRENT))
    total = torch.tensor([3.0, 12.0], requires_grad=True)
    llmu_loss(AnswerNLL(total, torch.tensor([3, 3])), None, stop_ce=2.0).backward()
    assert total.grad is not None
    assert total.grad.tolist() == pytest.approx([-0.5 / 2 / 3, 0])


def test_random_answers_are_drawn_once_and_from_others(task: UnlearnData) -> None:
    drawn, again, other = (random_answers(task, task.forget, count=5, seed=seed) for seed in (0, 0, 1))
    assert drawn == again != other
    lent = {item.answer for item in task.retain}
    for item, replies in zip(task.forget, drawn, strict=True):
        assert len({reply.answer for reply in replies}) == 5
        assert {reply.prompt for reply in replies} == {item.prompt}
        assert {reply.answer for reply in replies} <= lent - {item.answer}
    assert len({replies[0].answer for replies in drawn}) > 1
    own = replace(task, retain=(*task.retain[:2], replace(task.retain[2], answer=task.forget[0].answer)))
    few = random_answers(own, task.forget, count=5, seed=0)
    assert [len(replies) for replies in few] == [2] + [3] * 5


def test_the_mask_starts_at_the_first_token_of_the_random_answer(task: UnlearnData) -> None:
    model = shared_model("llama")
    replies = [reply for replies in random_answers(task, task.forget, count=2, seed=0) for reply in replies]
    tokens = encode(model, replies)
    assert len({len(reply.prompt.split()) for reply in replies}) > 2
    for row, reply in enumerate(replies):
        said = tokens.ids[row][tokens.answer[row]]
        assert words(said) == reply.answer
        start = int(tokens.answer[row].int().argmax())
        before = tokens.ids[row, :start][tokens.mask[row, :start]]
        assert before[0] == BOS
        assert words(before[1:]) == reply.prompt


def test_documents_take_no_part_in_random_answers(task: UnlearnData) -> None:
    model = shared_model("gpt2")
    mixed = (Item("", "t8 t9 t10"), *task.forget)
    assert [len(replies) for replies in random_answers(task, mixed, count=2, seed=0)] == [0] + [2] * 6
    assert llmu(model, replace(task, forget=mixed), steps=8, batch_size=1).spec.settings["steps_taken"] == 8
    documents = replace(task, forget=mixed[:1])
    with pytest.raises(VestigeError, match=r"llmu answers forget prompts at random, and all .* documents; random_wei"):
        llmu(model, documents)
    assert llmu(model, documents, random_weight=0.0, steps=1).spec.settings["steps_taken"] == 1


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_answers_go_to_the_stop_and_the_divergence_keeps_the_rest(
    seed: int, knowing: HookedModel, task: UnlearnData
) -> None:
    same: dict[str, Any] = {"lr": 3e-3, "epochs": 25, "batch_size": 3, "seed": seed, "n_random": 2}
    random = tuple(r for replies in random_answers(task, task.forget, count=2, seed=seed) for r in replies)
    assert probability(knowing, random) < 0.01
    kept = []
    for one in (llmu(knowing, task, retain_weight=0.0, **same), llmu(knowing, task, **same)):
        with one.applied(knowing) as view:
            assert probability(view, task.forget) < 0.05
            assert probability(view, random) > 0.05
            kept.append(probability(view, task.retain))
    assert kept[0] < kept[1] - 0.01
    assert kept[1] > 0.98


def test_needs_follow_the_settings_and_wrong_ones_are_named(task: UnlearnData) -> None:
    model = shared_model("gpt2")
    needs = [
        llmu(model, task, random_weight=random, retain_weight=retain, steps=1).spec.needs
        for random, retain in ((1.0, 1.0), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0))
    ]
    both = ("forget", "retain", "reference")
    assert needs == [both, ("forget", "retain"), both, ("forget",)]
    with pytest.raises(VestigeError, match="llmu draws at least 1 random answer for each prompt, got 0"):
        llmu(model, task, n_random=0)
    with pytest.raises(VestigeError, match="stop_ce is a number of nats per token above 0, or None, got 0"):
        llmu(model, task, stop_ce=0.0)
    with pytest.raises(VestigeError, match="random_weight is a finite number of at least 0, got -1"):
        llmu(model, task, random_weight=-1)
    same = tuple(replace(item, answer=task.forget[0].answer) for item in task.retain)
    with pytest.raises(
        VestigeError, match=r"llmu needs retain items with a prompt and an answer other than 't9 t6 t4'"
    ):
        llmu(model, replace(task, retain=same))
    with pytest.raises(VestigeError, match="llmu needs retain items"):
        llmu(model, replace(task, retain=()), retain_weight=0.0)
