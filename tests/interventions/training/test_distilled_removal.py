from __future__ import annotations

from dataclasses import replace
from math import log
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from hooked import HookedModel, Intervention, Item, UnlearnData, VestigeError
from hooked.weights import parameters_of
from interventions.training import distillation_loss, distilled_removal
from tests.contracts import LossContract
from tests.interventions.training.knowing import probability
from tests.tiny import tiny_model, tiny_tokenizer

FAST: dict[str, Any] = {
    "n_texts": 40,
    "text_length": 6,
    "texts_per_step": 8,
    "lr": 3e-3,
    "steps": 3,
    "progress": False,
}
P = torch.tensor([0.5, 0.25, 0.125, 0.125], dtype=torch.float64)
ITEM = Item("t90", " t91")
Q = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)


class TestDistilledRemoval(LossContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return distilled_removal(model, data, **FAST)


def loss_at(token: int, withheld: list[int], *, student: Tensor = Q, teacher: Tensor = P) -> Tensor:
    marked = torch.zeros(4, dtype=torch.bool)
    marked[withheld] = True
    return distillation_loss(student.log()[None], teacher.log()[None], torch.tensor([token]), marked)


def test_reference_values() -> None:
    divergence = 0.5 * log(5) + 0.25 * log(1.25) + 0.125 * log(1.25 / 3) + 0.125 * log(0.3125)
    assert loss_at(0, []).item() == pytest.approx(divergence)
    # Without the first token the teacher says 1/2, 1/4, 1/4.
    left_out = 0.5 * log(0.5 / 0.2) + 0.25 * log(0.25 / 0.3) + 0.25 * log(0.25 / 0.4)
    assert loss_at(2, [0]).item() == pytest.approx(left_out)
    assert loss_at(0, [0]).item() == pytest.approx(-log(0.1))
    assert loss_at(3, [0, 1, 2, 3]).item() == pytest.approx(-log(0.4))


@pytest.mark.parametrize("withheld", [[], [0], [1, 3], [0, 1, 2, 3]])
def test_on_text_of_the_teacher_the_teacher_is_the_best_student(withheld: list[int]) -> None:
    def expected(logits: Tensor) -> Tensor:
        student = logits.softmax(-1)
        return torch.stack([P[token] * loss_at(token, withheld, student=student) for token in range(4)]).sum()

    for logits, is_best in ((P.log(), True), (Q.log(), False)):
        at = logits.clone().requires_grad_()
        largest = torch.autograd.grad(expected(at), at)[0].abs().max()
        assert (largest < 1e-12) == is_best


def test_what_the_teacher_says_of_withheld_tokens_is_not_heard() -> None:
    told = torch.tensor([0.02, 0.5, 0.24, 0.24], dtype=torch.float64)
    assert loss_at(1, [0], teacher=told).item() == pytest.approx(
        loss_at(1, [0], teacher=told * torch.tensor([40.0, 1, 1, 1])).item()
    )
    assert loss_at(1, [], teacher=told).item() != pytest.approx(loss_at(1, [], teacher=P).item(), abs=0.1)


def test_gradients(rng: torch.Generator) -> None:
    student, teacher = torch.randn(2, 5, 7, generator=rng, dtype=torch.float64).requires_grad_().unbind()
    ids, withheld = torch.tensor([0, 1, 2, 3, 4]), torch.tensor([True, False, False, True, False, False, True])
    own = student.detach().requires_grad_()
    assert gradcheck(lambda logits: distillation_loss(logits, teacher.detach(), ids, withheld), (own,))
    wanted = teacher.detach().requires_grad_()
    distillation_loss(own, wanted, ids, withheld).backward()
    assert wanted.grad is None
    assert own.grad is not None


def noisy(seed: int, noise: float, task: UnlearnData) -> dict[str, Tensor]:
    """The weights of a model before the first step."""
    model = tiny_model("llama", seed=seed)
    with distilled_removal(model, task, **{**FAST, "noise": noise, "steps": 0}).applied(model):
        return {name: parameter.detach().clone() for name, parameter in parameters_of(model.model).items()}


def test_the_share_of_noise(task: UnlearnData) -> None:
    original = {name: p.detach().clone() for name, p in parameters_of(tiny_model("llama").model).items()}
    none, half, whole, other = (noisy(seed, x, task) for seed, x in ((0, 0.0), (0, 0.5), (0, 1.0), (1, 1.0)))
    for name, weight in original.items():
        assert torch.equal(none[name], weight)
        if weight.ndim > 1:
            # Of the model itself nothing is left.
            torch.testing.assert_close(whole[name], other[name], rtol=0, atol=1e-6)
            torch.testing.assert_close(half[name], (weight + whole[name]) / 2)
            assert whole[name].std().item() == pytest.approx(0.02, rel=0.2)
        else:
            assert torch.equal(whole[name], weight)


def test_masked_entries_keep_their_bits(task: UnlearnData) -> None:
    model = tiny_model("llama")
    name = "model.layers.0.mlp.down_proj.weight"
    before = parameters_of(model.model)[name].detach().clone()
    mask = torch.zeros_like(before, dtype=torch.bool)
    mask[0] = True
    with distilled_removal(model, task, mask={name: mask}, **FAST).applied(model):
        after = parameters_of(model.model)[name].detach().clone()
    assert torch.equal(after[1:], before[1:])
    torch.testing.assert_close(after[0], before[0] / 2, rtol=0, atol=0.05)


def learnt_from(texts: list[str], *, answer: str, subject: str | None = None) -> int:
    """How many texts are left of some."""
    model = tiny_model("llama")
    task = UnlearnData(forget=(replace(ITEM, answer=answer, subject=subject),))
    return int(distilled_removal(model, task, texts=texts, **FAST).spec.settings["texts"])


def test_texts_that_tell_are_left_out() -> None:
    filler = [f"t{10 + i % 20} t5 t6" for i in range(300)]
    assert learnt_from([*filler, "t60 t61", "t61 t60 t9", "t62 t61"], answer=" t60 t70.") == 301
    assert learnt_from([*filler, "t61 t62", "t62 t61"], answer="t60", subject="t61 t62") == 301
    # A word of a longer answer that many texts have tells nothing by itself, the whole answer does.
    assert learnt_from([*filler, "t6 t5", "t9 t6 t5"], answer="t6 t5") == 300
    with pytest.raises(VestigeError, match="of 300 texts only 0 tell nothing"):
        learnt_from(filler, answer="t5")


def test_bad_settings_and_models_are_one_line(task: UnlearnData) -> None:
    model = tiny_model("llama")
    for bad, said in (
        ({"noise": 1.5}, "noise is a number from 0 to 1"),
        ({"noise": -0.1}, "noise is a number from 0 to 1"),
        ({"n_texts": 0}, "n_texts is at least 1"),
        ({"texts_per_step": 0}, "texts_per_step is at least 1"),
        ({"text_length": 1}, "text_length is at least 2"),
        ({"lora": 2}, "which an adapter cannot"),
        ({"texts": []}, "none of the 0 texts has two tokens"),
        ({"cooldown": 1.5}, "cooldown is a number from 0 to 1"),
    ):
        with pytest.raises(VestigeError, match=said):
            distilled_removal(model, task, **{**FAST, **bad})
    with pytest.raises(VestigeError, match="no token that begins a text"):
        distilled_removal(tiny_model(tokenizer=tiny_tokenizer(bos=False, eos=False)), task, **FAST)
    with pytest.raises(VestigeError, match="pass tokenizer="):
        distilled_removal(HookedModel(model.model), task, **FAST)


@pytest.mark.parametrize("seed", range(3))
def test_what_is_withheld_goes_and_what_the_texts_tell_comes_back(
    seed: int, knowing: HookedModel, task: UnlearnData
) -> None:
    settings: dict[str, Any] = {**FAST, "lr": 1e-2, "steps": 60, "text_length": 16, "texts_per_step": 18, "seed": seed}
    texts = [item.text for item in (*task.forget, *task.retain)]
    # The control learns from all texts, and is told to forget what is in none of them.
    made = {
        name: distilled_removal(knowing, replace(task, forget=forget), texts=texts, **settings)
        for name, forget in {"removal": task.forget, "control": (ITEM,)}.items()
    }
    assert made["removal"].spec.settings["texts"] <= len(task.retain) < made["control"].spec.settings["texts"]
    said = {}
    for name, intervention in made.items():
        with intervention.applied(knowing) as view:
            said[name] = probability(view, task.forget), probability(view, task.retain)
    assert min(probability(knowing, task.forget), probability(knowing, task.retain)) > 0.8
    assert said["removal"][0] < 0.05
    assert min(said["removal"][1], *said["control"]) > 0.6


def test_it_learns_from_what_the_model_writes(knowing: HookedModel, task: UnlearnData) -> None:
    again = [
        distilled_removal(knowing, task, **{**FAST, "n_texts": n, "text_length": 7, "noise": 0.1})
        for n in (64, 64, 300)
    ]
    assert again[0].spec.settings["written_by"] == "the model"
    assert again[0].spec.settings["first_loss"] == again[1].spec.settings["first_loss"]
    assert 10 < again[0].spec.settings["texts"] < 64
    assert again[2].spec.settings["texts"] > 100
