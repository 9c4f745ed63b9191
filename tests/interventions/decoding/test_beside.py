"""What another model sees of the target's request."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from hooked import HookContext, HookedModel, Intervention, Spec, UnlearnData
from hooked.forward import first_chunk
from interventions import key_space_detection
from interventions.decoding import Assistant, Loaded, LogitCombiner, Term
from interventions.decoding.beside import Beside
from interventions.decoding.lol import _instructed
from tests.contracts import assert_close
from tests.interventions.decoding.made import applied_logits
from tests.tiny import shared_model, tiny_model, tiny_tokenizer


@pytest.fixture(autouse=True)
def _no_grad() -> Any:
    with torch.no_grad():
        yield


@dataclass(frozen=True)
class OnSteps:
    """Edit: changes the stream where a decoding step is answered."""

    def __call__(self, activation: Tensor, /, hook: HookContext) -> Tensor:
        assert hook.request is not None
        return activation * (1 + hook.request.step[..., None])


def only(model: HookedModel) -> Intervention:
    """What another model says, in place of what the target says."""
    combiner = LogitCombiner((Term(1.0, "logits", 1),), (Loaded(model),))
    return Intervention(Spec("only", "suppression"), logits=combiner)


@pytest.mark.parametrize("side", ["left", "right"])
def test_it_knows_where_the_answer_begins(side: str) -> None:
    target, other = tiny_model("llama", dtype=torch.float64), tiny_model("gpt2", dtype=torch.float64)
    batch = target.tokenize(["t5 t6 t7", "t8"], answers=["t9 t10", "t11"], padding_side=side)  # type: ignore[arg-type]
    with Intervention(Spec("steps", "suppression"), edits={"resid_post.0": OnSteps()}).applied(other) as view:
        wanted = view.logits(batch)
        assert (wanted - other.logits(batch))[batch.prompt & (batch.ids == 5)].abs().max() == 0
        with only(view).applied(target) as combined:
            assert_close(combined.logits(batch)[batch.mask], wanted[batch.mask])
            said = combined.generate_tokens(["t5 t6 t7", "t8"], max_new_tokens=4)
        assert said == view.generate_tokens(["t5 t6 t7", "t8"], max_new_tokens=4)


def test_another_model_that_refuses_does_so_from_the_last_prompt_token_on(tiny_data: UnlearnData) -> None:
    target, other = tiny_model("llama", dtype=torch.float64), tiny_model("llama", seed=1, dtype=torch.float64)
    refusing = key_space_detection(other, tiny_data, refusal="t5 t6", false_positive_rate=0.5)
    items = tiny_data.forget
    batch = target.tokenize([item.prompt for item in items], answers=[item.answer for item in items])
    with refusing.applied(other) as view:
        wanted = view.logits(batch)
        assert (wanted - other.logits(batch)).abs().amax((1, 2)).min() > 1
        assert_close(applied_logits(only(view), target, batch)[batch.mask], wanted[batch.mask])  # type: ignore[arg-type]


def test_an_instruction_in_front_moves_the_steps_along() -> None:
    model = shared_model("llama")
    batch = model.tokenize(["t5 t6 t7", "t8"], answers=["t9 t10", "t11"])
    request = first_chunk(batch).request
    for before, bos in (((1, 20, 21), 1), ((20, 21), None)):
        _, own = Beside(Assistant(before=before, bos=bos), model).run(request, ())
        width = len(before)
        assert torch.equal(own.step[:, width:], request.step)
        assert not own.step[:, :width].any()


def test_a_first_word_that_is_also_the_instructions_is_not_taken_for_a_bos() -> None:
    model = tiny_model("llama", dtype=torch.float64, tokenizer=tiny_tokenizer(bos=False))
    assistant = _instructed(model, "t20 t21")
    combiner = LogitCombiner((Term(1.0, "logits", 1),), (assistant,))
    got = applied_logits(Intervention(Spec("told", "suppression"), logits=combiner), model, "t20 t6")
    assert_close(got, model.logits(torch.tensor([[20, 21, 20, 6]]))[:, 2:])
    assert _instructed(shared_model("llama"), "t20 t21") == Assistant(before=(1, 20, 21), bos=1)
