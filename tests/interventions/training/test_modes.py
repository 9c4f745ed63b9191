"""Nothing depends on the mode that the caller left the model or torch in: no noise of dropout, no inference mode."""

from __future__ import annotations

from collections.abc import Callable
from math import log
from typing import Any

import pytest
import torch

from hooked import HookedModel, Intervention, Item, UnlearnData
from interventions.erasure import fact_erasure, inlp, memit_empty, select_layers
from interventions.evaluating import evaluating
from interventions.training import (
    circuit_breakers,
    distilled_removal,
    gradient_ascent_kl,
    gradient_difference,
    idk_dpo,
    loku,
    npo,
    rmu,
    undial,
    whp,
)
from tests.interventions.conftest import make_items
from tests.tiny import tiny_model

METHODS: dict[str, Callable[..., Intervention]] = {
    "circuit_breakers": circuit_breakers,
    "distilled_removal": lambda model, data, **given: distilled_removal(
        model, data, n_texts=20, text_length=5, **given
    ),
    "fact_erasure": fact_erasure,
    "gradient_ascent_kl": gradient_ascent_kl,
    "idk_dpo": lambda model, data, **given: idk_dpo(model, data, refusals=("t5 t6",), **given),
    "loku": loku,
    "memit_empty": lambda model, data, **given: memit_empty(model, data, refusal="t5 t6", steps=2),
    "npo": npo,
    "rmu": rmu,
    "undial": lambda model, data, **given: undial(model, data, beta="auto", **given),
    "whp": lambda model, data, **given: whp(model, data, anchors={"t5": "t50", "t6": "t51"}, **given),
}


@pytest.fixture(scope="module")
def data() -> UnlearnData:
    asked = (Item("t5 t8 t9", "t6 t7"), *make_items(3, low=3, high=40, seed=1))
    return UnlearnData(asked, make_items(4, low=40, high=99, seed=2))


def learned_by(name: str, model: HookedModel, data: UnlearnData) -> tuple[Any, dict[str, torch.Tensor]]:
    made = METHODS[name](model, data, steps=2, lr=1e-3, batch_size=4)
    with made.applied(model):
        return made.spec, {key: tensor.clone() for key, tensor in model.state().items()}


@pytest.mark.parametrize("name", METHODS)
def test_dropout_and_inference_mode_change_nothing(name: str, data: UnlearnData) -> None:
    model = tiny_model("gpt2")
    wanted = learned_by(name, model, data)
    model.model.train()
    found = learned_by(name, model, data)
    assert all(module.training for module in model.model.modules())
    model.model.eval()
    with torch.inference_mode():
        inferred = learned_by(name, model, data)
    for spec, state in (found, inferred):
        assert spec == wanted[0]
        assert all(torch.equal(tensor, wanted[1][key]) for key, tensor in state.items())


def test_npo_in_train_mode_starts_at_its_known_value(data: UnlearnData) -> None:
    model = tiny_model("gpt2")
    model.model.train()
    made = npo(model, data, retain_weight=0.0, beta=0.1, steps=1)
    assert made.spec.settings["first_loss"] == pytest.approx(20 * log(2), rel=1e-6)


def test_statistics_are_those_without_dropout(data: UnlearnData) -> None:
    model = tiny_model("gpt2")

    def measured() -> Any:
        chosen = select_layers(model, data.retain, n=1, k=2)
        with inlp(model, data, site="blocks.1.hook_resid_post", directions=1).applied(model) as view, evaluating(model):
            return chosen, view.logits("t5 t6")

    wanted = measured()
    model.model.train()
    found = measured()
    assert found[0] == wanted[0]
    assert torch.equal(found[1], wanted[1])


def test_every_module_gets_its_own_mode_back() -> None:
    model = tiny_model("gpt2")
    model.model.train()
    model.model.get_submodule("transformer.h.1").eval()
    modes = [module.training for module in model.model.modules()]
    with evaluating(model):
        assert not any(module.training for module in model.model.modules())
    assert [module.training for module in model.model.modules()] == modes
    assert any(modes)
    assert not all(modes)


def test_a_narrow_model_learns_in_inference_mode(data: UnlearnData) -> None:
    with torch.inference_mode():
        made = gradient_difference(tiny_model("llama", dtype=torch.bfloat16), data, steps=1)
    assert made.weights is not None
