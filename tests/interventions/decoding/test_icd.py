"""ICD: what its amateur learns, its two limiting cases, and that the right answer wins over a wrong one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from hooked import HookedModel, Intervention, Item, Spec, UnlearnData, VestigeError
from interventions.decoding import Assistant, LogitCombiner, Plausible, Term, icd
from interventions.false_answers import false_answers
from tests.contracts import InterventionContract
from tests.interventions.conftest import make_items
from tests.interventions.decoding.made import applied_logits, task_of, taught
from tests.interventions.training.knowing import probability
from tests.tiny import random_ids, shared_model, tiny_model

FAST: dict[str, Any] = {"steps": 3, "progress": False}


class TestICD(InterventionContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return icd(model, data, **FAST)


def test_an_amateur_equal_to_the_model_leaves_the_kept_tokens_equally_likely(rng: torch.Generator) -> None:
    model, ids = tiny_model("llama", dtype=torch.float64), random_ids(rng)
    combiner = LogitCombiner((Term(1.0), Term(-1.0, model=1)), (Assistant(),), Plausible(0.1))
    got = applied_logits(Intervention(Spec("same", "suppression"), logits=combiner), model, ids).softmax(-1)
    kept = Plausible(0.1).keep(model.logits(ids).log_softmax(-1))
    torch.testing.assert_close(got, kept.double() / kept.sum(-1, keepdim=True), atol=1e-12, rtol=0)
    untrained = icd(model, UnlearnData(make_items(6, low=3, high=40, seed=1)), steps=0, progress=False)
    torch.testing.assert_close(applied_logits(untrained, model, ids).softmax(-1), got, atol=1e-12, rtol=0)


def test_weight_0_is_the_model_among_the_kept_tokens(tiny_data: UnlearnData, rng: torch.Generator) -> None:
    model, ids = tiny_model("gpt2", dtype=torch.float64), random_ids(rng)
    got = applied_logits(icd(model, tiny_data, weight=0.0, cutoff=None, **FAST), model, ids)
    torch.testing.assert_close(got.softmax(-1), model.logits(ids).softmax(-1), atol=1e-12, rtol=0)


def test_listed_wrong_answers_are_taken_and_others_drawn() -> None:
    items = (Item("a", "x", perturbed_answers=("y", " ", "z")), Item("b", "x"), Item("c", "w"), Item("d", "v"))
    wrong = false_answers(items, seed=0, method="icd", every=True)
    assert [(item.prompt, item.answer) for item in wrong[:2]] == [("a", "y"), ("a", "z")]
    assert all(item.answer != right.answer for item, right in zip(wrong[2:], items[1:], strict=True))
    assert {item.answer for item in wrong} <= {"y", "z", "x", "w", "v"}
    assert false_answers(items, seed=0, method="icd", every=True) == wrong
    drawn = {tuple(item.answer for item in false_answers(items, seed=seed, method="icd")) for seed in range(8)}
    assert len(drawn) > 2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_model_torn_between_right_and_wrong_says_the_right_thing(seed: int) -> None:
    forget = task_of(seed).forget
    wrong = tuple(replace(item, answer=forget[(i + 1) % 6].answer) for i, item in enumerate(forget))
    asked = tuple(replace(item, perturbed_answers=(other.answer,)) for item, other in zip(forget, wrong, strict=True))
    with taught(forget + wrong, seed=seed, epochs=20) as model:
        assert abs(probability(model, forget) - probability(model, wrong)) < 0.1
        with icd(model, UnlearnData(asked), progress=False).applied(model) as view:
            assert probability(view, forget) > probability(model, forget) + 0.1
            assert probability(view, wrong) < probability(model, wrong) - 0.1
            margin = probability(view, forget) - probability(view, wrong)
        mirrored = UnlearnData(
            tuple(replace(w, perturbed_answers=(f.answer,)) for f, w in zip(forget, wrong, strict=True))
        )
        with icd(model, mirrored, progress=False).applied(model) as view:
            assert probability(view, wrong) - probability(view, forget) > 0.2
    assert margin > 0.2


def test_without_a_false_answer_there_is_no_amateur() -> None:
    same = UnlearnData((Item("t5", "t6"), Item("t7", "t6")))
    with pytest.raises(VestigeError, match="icd needs a false answer for item 0, and it has the only answer there is"):
        icd(shared_model("gpt2"), same)
    with pytest.raises(VestigeError, match="weight is a finite number, got inf"):
        icd(shared_model("gpt2"), same, weight=float("inf"))
    with pytest.raises(VestigeError, match="a cutoff is a fraction"):
        icd(shared_model("gpt2"), same, cutoff=3)
