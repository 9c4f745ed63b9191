from __future__ import annotations

import re
from dataclasses import replace
from importlib import import_module
from math import log
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from hooked import HookedModel, Intervention, Item, UnlearnData, VestigeError
from hooked.weights import parameters_of
from interventions.training import distillation_loss, distilled_removal, npo
from interventions.training.distilled_removal import _bare, _plain, _whole, _written
from tests.contracts import LossContract
from tests.interventions.training.knowing import probability
from tests.tiny import tiny_model, tiny_tokenizer
from vestige.methods import text_settings

# By name, since `interventions.training.distilled_removal` is the function.
MODULE = import_module(distilled_removal.__module__)
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


def noisy(seed: int, noise: float, task: UnlearnData, *, chosen: int = 0, **config: Any) -> dict[str, Tensor]:
    """The weights of a model before the first step."""
    model = tiny_model("llama", seed=seed, **config)
    with distilled_removal(model, task, **{**FAST, "noise": noise, "steps": 0, "seed": chosen}).applied(model):
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


def learnt_from(texts: list[str], *forget: Item) -> int:
    """How many texts are left of some."""
    made = distilled_removal(tiny_model("llama"), UnlearnData(forget=forget), texts=texts, **FAST)
    return int(made.spec.settings["texts"])


def test_texts_that_tell_are_left_out() -> None:
    filler = [f"t{10 + i % 20} t5 t6" for i in range(300)]
    one = Item("t90", "t60 t70.")
    # One word of the answer is enough, if few texts have it; so it is among few texts.
    assert learnt_from([*filler, "t60 t61", "t61 t60 t9", "t62 t61"], one) == 301
    assert learnt_from([*filler[:10], "t60 t61", "t62 t61"], one) == 11
    assert learnt_from([*filler, "t61 t62", "t62 t61", "t8 t9"], replace(ITEM, subject="t61 t62")) == 301
    # Of an item whose answer is unknown, the name counts.
    assert learnt_from([*filler, "t61 t62", "t8 t9"], ITEM, Item("t90", "", subject="t61")) == 301
    # A word that many texts have tells nothing by itself, the whole answer does.
    assert learnt_from([*filler, "t6 t5", "t9 t6 t5"], Item("t90", "t6 t5")) == 300
    with pytest.raises(VestigeError, match="of 300 texts only 0 tell nothing"):
        learnt_from(filler, Item("t90", "t5"))


@pytest.mark.parametrize(
    ("phrase", "text", "tells"),
    [
        ("Paris\n", "seen in PARIS, once", True),
        ("“Dune”", "he wrote dune.", True),
        ("Paris", "a parisian", False),
        ("New York", "in new\nyork", True),
        ("Zürich", "in Zu\u0308rich", True),
        ("O'Neill", "by o\u2019neill", True),
        ("C++ (1998)", "in c++ (1998)", True),
        ("太郎", "太郎は東京で生まれた。", True),
    ],
)
def test_phrases_are_found_in_whatever_form(phrase: str, text: str, tells: bool) -> None:
    (bare,) = _bare([phrase])
    assert (re.search(_whole(_plain(bare)), _plain(text)) is not None) == tells


def test_what_the_model_writes_depends_on_the_seed_and_the_row_alone() -> None:
    model = tiny_model("llama")
    written = [_written(model, n=n, length=9, seed=seed, progress=False) for n, seed in ((600, 0), (300, 0), (600, 1))]
    assert len(written[1]) > 256
    assert written[0][: len(written[1])] == written[1]
    assert written[0] != written[2]
    assert written[0][:256] != written[0][256:512]
    tokenizer: Any = model.tokenizer
    ends = [row[-1] == tokenizer.eos_token_id for row in written[0]]
    assert all(row[0] == tokenizer.bos_token_id and len(row) <= 9 for row in written[0])
    # A text that ended says so, one that was cut does not.
    assert 0 < sum(ends) < len(ends)
    assert all(len(row) == 9 for row, end in zip(written[0], ends, strict=True) if not end)


def test_settings_reach_the_training_and_the_record(task: UnlearnData) -> None:
    model = tiny_model("llama", initializer_range=0.1)
    spec = distilled_removal(model, task, **{**FAST, "steps": 0, "text_length": 500}).spec
    assert spec.settings["text_length"] == model.config.max_position_embeddings
    assert {spec.settings[name] for name in ("n_texts", "cooldown", "noise")} == {40, 0.5}
    assert noisy(0, 1.0, task, initializer_range=0.1)["lm_head.weight"].std().item() == pytest.approx(0.1, rel=0.1)
    drawn = [noisy(0, 1.0, task, chosen=seed)["lm_head.weight"] for seed in (0, 1)]
    assert not torch.allclose(*drawn)
    steps = distilled_removal(model, task, **{**{k: v for k, v in FAST.items() if k != "steps"}, "epochs": 2})
    assert steps.spec.settings["steps_taken"] == 2


def test_bad_settings_and_models_are_one_line(task: UnlearnData) -> None:
    model = tiny_model("llama")
    for bad, said in (
        ({"noise": 1.5}, "noise is a number from 0 to 1"),
        ({"noise": -0.1}, "noise is a number from 0 to 1"),
        ({"noise": "half"}, "noise is a number from 0 to 1"),
        ({"n_texts": 0}, "n_texts is a whole number of at least 1"),
        ({"texts_per_step": 2.5}, "texts_per_step is a whole number of at least 1"),
        ({"text_length": 1}, "text_length is a whole number of at least 2"),
        ({"texts": "t5 t6 t7"}, "texts is a list of texts"),
        ({"stop_fraction": 0.5}, "leave stop_fraction= out"),
        ({"steps": -1}, "steps is a whole number of at least 0"),
        ({"lora": 2}, "which an adapter cannot"),
        ({"texts": []}, "none of the 0 texts has two tokens"),
        ({"cooldown": 1.5}, "cooldown is a number from 0 to 1"),
    ):
        with pytest.raises(VestigeError, match=said):
            distilled_removal(model, task, **{**FAST, **bad})
    with pytest.raises(VestigeError, match="the forget items have no words"):
        distilled_removal(model, UnlearnData(forget=(Item("t5", "."),)), **FAST)
    with pytest.raises(VestigeError, match="no token that begins a text"):
        distilled_removal(tiny_model(tokenizer=tiny_tokenizer(bos=False, eos=False)), task, **FAST)
    with pytest.raises(VestigeError, match="pass tokenizer="):
        distilled_removal(HookedModel(model.model), task, **FAST)


def test_nothing_is_written_before_the_settings_are_right(task: UnlearnData, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing needs to be written")

    monkeypatch.setattr(MODULE, "_written", refuse)
    for bad in ({"lr": -1.0}, {"lora": 2}, {"stpes": 3}, {"layers": [99]}, {"cooldown": 2.0}):
        with pytest.raises(VestigeError):
            distilled_removal(tiny_model("llama"), task, **{**FAST, **bad})
    # Nor where nothing is learnt from it.
    assert distilled_removal(tiny_model("llama"), task, **{**FAST, "steps": 0}).spec.settings["steps_taken"] == 0


def test_settings_that_it_would_refuse_are_not_offered() -> None:
    offered = set(text_settings(distilled_removal))
    assert {"lr", "steps", "noise"} <= offered
    assert offered.isdisjoint({"lora", "lora_scale", "stop_fraction"})
    assert {"lora", "lora_scale", "stop_fraction"} <= set(text_settings(npo))


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
