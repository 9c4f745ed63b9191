from __future__ import annotations

from dataclasses import replace
from typing import Any, get_args, get_type_hints

import pytest

from hooked import HookedModel, Intervention, Item, UnlearnData, VestigeError
from interventions import gradient_ascent
from interventions.erasure import fact_erasure, max_entropy, memit_empty, rephrase
from tests.contracts import LossContract
from tests.interventions.erasure.defences import FAST
from tests.interventions.training.knowing import probability
from tests.tiny import shared_model


def paraphrased(data: UnlearnData, n: int | None = None) -> UnlearnData:
    """The first n forget prompts in other words: backwards."""
    items = [
        replace(item, paraphrased_prompt=" ".join(item.prompt.split()[::-1]) if n is None or i < n else None)
        for i, item in enumerate(data.forget)
    ]
    return replace(data, forget=tuple(items))


class TestRephrase(LossContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return rephrase(model, paraphrased(data), **FAST)


def test_the_paraphrases_are_what_the_defence_gets(task: UnlearnData) -> None:
    given: list[UnlearnData] = []

    def spy(model: HookedModel, data: UnlearnData, **settings: Any) -> Intervention:
        given.append(data)
        return fact_erasure(model, data, **settings)

    data = paraphrased(task, 4)
    made = rephrase(shared_model("gpt2"), data, defence=spy, layer=0, **FAST)
    assert [item.prompt for item in given[0].forget] == [item.paraphrased_prompt for item in data.forget[:4]]
    assert [item.answer for item in given[0].forget] == [item.answer for item in data.forget[:4]]
    assert given[0].retain == data.retain
    assert made.spec.name == "rephrase"
    assert made.spec.settings["defence"] == "fact_erasure"
    assert made.spec.settings["layer"] == 0
    rephrase(shared_model("gpt2"), data, defence=spy, keep_originals=True, **FAST)
    assert given[1].forget == (*data.forget, *given[0].forget)


def test_settings_reach_the_defence_and_those_it_lacks_are_named(task: UnlearnData) -> None:
    model, data = shared_model("gpt2"), paraphrased(task)
    made = rephrase(model, data, layer=2, part="attn.o", kl_weight=0.5, seed=3, **FAST)
    assert made.weights is not None
    assert set(made.weights.deltas) == {model.weight_name("attn.o", 2)}
    assert (made.spec.settings["kl_weight"], made.spec.settings["seed"]) == (0.5, 3)
    assert rephrase(model, data, **FAST).spec.settings["part"] == "mlp.out"
    with pytest.raises(VestigeError, match="settings on to memit_empty: got an unexpected keyword argument 'part'"):
        rephrase(model, data, defence=memit_empty, part="attn.o")
    with pytest.raises(VestigeError, match="gradient_ascent has no setting 'kl_weight'"):
        rephrase(model, data, defence=gradient_ascent, kl_weight=0.5)


def test_the_signature_says_what_text_can_set() -> None:
    hints = get_type_hints(rephrase)
    assert hints["layer"] == int | None
    assert get_type_hints(get_args(hints["training"])[0])["seed"] is int


def test_any_method_can_be_rephrased(task: UnlearnData) -> None:
    for defence in (max_entropy, gradient_ascent):
        made = rephrase(shared_model("gpt2"), paraphrased(task), defence=defence, **FAST)
        assert made.spec.settings["defence"] == defence.__name__
        assert made.spec.settings["steps_taken"] > 0


def test_the_paraphrase_is_forgotten_too(knowing: HookedModel, task: UnlearnData) -> None:
    """The items to retain serve as paraphrases, since the model knows answers to nothing else."""
    other = task.retain[: len(task.forget)]
    asked = tuple(Item("t90 t91", item.answer, paraphrased_prompt=item.prompt) for item in other)
    data = replace(task, forget=asked, retain=task.retain[len(other) :])
    made = rephrase(knowing, data, layer=0, lr=1e-2, epochs=30, batch_size=6)
    with made.applied(knowing) as view:
        assert probability(view, other) < 0.4
        assert probability(view, data.retain) > 0.95


def test_a_task_without_paraphrases_is_refused(task: UnlearnData) -> None:
    with pytest.raises(VestigeError, match="needs forget items with a paraphrased_prompt, and none of the 6 has one"):
        rephrase(shared_model("gpt2"), task)
