from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from interventions import steer
from tests.contracts import InterventionContract
from tests.numerics import FLOAT32, error
from tests.tiny import shared_model

SITE = "blocks.1.hook_resid_post"


def direction() -> Tensor:
    return torch.randn(32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class TestSteer(InterventionContract):
    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return steer(direction(), sites=[("resid_post", 1)], coefficient=2.0)


class TestSteerTheAnswer(InterventionContract):
    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return steer(direction(), sites=[("resid_post", 0), ("resid_post", 1)], positions="answer")


class TestSteerThePrompt(InterventionContract):
    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return steer(direction(), sites=[("resid_post", 1)], coefficient=-2.0, positions="prompt", intent="attack")


@pytest.mark.parametrize("positions", ["all", "prompt", "answer"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_direction_is_added_where_it_was_asked_for(positions: str, side: str) -> None:
    model = shared_model("llama")
    batch = model.tokenize(["t5 t6 t7", "t8"], answers=["t9 t10", "t11"], padding_side=side)  # type: ignore[arg-type]
    columns = torch.arange(batch.ids.shape[1])
    wanted = {
        "all": batch.mask,
        "prompt": batch.mask & ~batch.answer,
        "answer": batch.mask & (columns >= batch.prompt_last[:, None]),
    }[positions]
    before = model.run_with_cache(batch, names_filter=SITE)[1][SITE]
    with steer(direction(), sites=[SITE], coefficient=-1.5, positions=positions).applied(model) as view:  # type: ignore[arg-type]
        after = view.run_with_cache(batch, names_filter=SITE)[1][SITE]
    assert 0 < wanted.sum() < wanted.numel()
    assert error((after - before)[wanted], -1.5 * direction().float().expand(int(wanted.sum()), 32)) < 5 * FLOAT32
    assert torch.equal(after[~wanted], before[~wanted])


def test_coefficient_zero_changes_no_bit() -> None:
    model = shared_model("gpt2")
    with torch.no_grad(), steer(direction(), sites=[SITE], coefficient=0.0).applied(model) as view:
        assert torch.equal(view.logits("t5 t6"), model.logits("t5 t6"))


def test_the_callers_vector_may_change_afterwards() -> None:
    model, vector = shared_model("gpt2"), direction()
    made = steer(vector, sites=[SITE], coefficient=1.0)
    with torch.no_grad(), made.applied(model) as view:
        before = view.logits("t5 t6")
        vector.zero_()
        assert torch.equal(view.logits("t5 t6"), before)


@pytest.mark.parametrize(
    ("vector", "settings", "message"),
    [
        (torch.full((32,), float("inf")), {}, "one finite vector"),
        (torch.ones(2, 32), {}, r"one finite vector \[d_model\], got shape \(2, 32\)"),
        (torch.ones(32), {"coefficient": float("nan")}, "coefficient is a finite number, got nan"),
        (torch.ones(32), {"sites": []}, "at least one site"),
        (torch.ones(32), {"positions": "last"}, "positions is one of all, prompt, answer, got 'last'"),
        (torch.ones(32), {"intent": "fun"}, "intent is"),
    ],
)
def test_wrong_arguments_are_named(vector: Tensor, settings: dict[str, object], message: str) -> None:
    with pytest.raises(VestigeError, match=message):
        steer(vector, **{"sites": [SITE], **settings})  # type: ignore[arg-type]
