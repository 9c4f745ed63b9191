from __future__ import annotations

from dataclasses import replace

import pytest

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from interventions.erasure import empty_response
from tests.contracts import LossContract
from tests.interventions.erasure.defences import FAST
from tests.interventions.training.knowing import probability
from tests.tiny import shared_model


class TestEmptyResponse(LossContract):
    required = ("retain",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return empty_response(model, data, refusal="t5 t6", **FAST)


def test_the_refusal_is_said_and_the_rest_kept(knowing: HookedModel, task: UnlearnData) -> None:
    made = empty_response(knowing, task, refusal="t5 t6", layer=0, lr=1e-2, epochs=40, batch_size=6)
    assert made.spec.settings["refusal"] == "t5 t6"
    with made.applied(knowing) as view:
        said = view.generate([item.prompt for item in task.forget], max_new_tokens=2)
        assert probability(view, task.forget) < 0.3
        assert probability(view, task.retain) > 0.9
    assert said == ["t5 t6"] * len(task.forget)


def test_silence_is_a_refusal_too(knowing: HookedModel, task: UnlearnData) -> None:
    made = empty_response(knowing, task, refusal="<eos>", layer=0, lr=1e-2, epochs=60, batch_size=6)
    with made.applied(knowing) as view:
        assert view.generate([item.prompt for item in task.forget], max_new_tokens=3) == [""] * len(task.forget)


def test_questions_without_answers_can_be_refused(task: UnlearnData) -> None:
    open_questions = tuple(replace(item, answer="") for item in task.forget)
    made = empty_response(shared_model("gpt2"), replace(task, forget=open_questions), refusal="t5", **FAST)
    assert made.spec.settings["steps_taken"] == 3


def test_wrong_settings_are_named(task: UnlearnData) -> None:
    model = shared_model("gpt2")
    with pytest.raises(VestigeError, match="empty_response needs refusals of at least one word each"):
        empty_response(model, task, refusal=" ")
    with pytest.raises(VestigeError, match="empty_response teaches refusals, and stop_fraction= would wait"):
        empty_response(model, task, refusal="t5", stop_fraction=0.1)
