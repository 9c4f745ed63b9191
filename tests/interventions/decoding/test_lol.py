"""LOL-style decoding: its formula, and what is left of it when a term has no weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from hooked.truncated import truncated
from interventions.decoding import Assistant, LogitCombiner, icd, lol
from interventions.decoding.plausible import Plausible
from tests.contracts import InterventionContract, assert_close
from tests.interventions.decoding.made import applied_logits
from tests.tiny import random_ids, shared_model, tiny_model

FAST: dict[str, Any] = {"steps": 3, "progress": False}


class TestLOL(InterventionContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return lol(model, data, **FAST)


class TestLOLWithAnInstruction(InterventionContract):
    required = ("forget",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return lol(model, data, layer=1, mu=0.5, instruction="t20 t21 t22", **FAST)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_without_omega_and_mu_it_is_icd(family: str, tiny_data: UnlearnData, rng: torch.Generator) -> None:
    model, ids = tiny_model(family, dtype=torch.float64), random_ids(rng)
    plain, contrast = lol(model, tiny_data, omega=0.0, **FAST), icd(model, tiny_data, **FAST)
    assert plain.points == contrast.points == ("logits",)
    assert torch.equal(applied_logits(plain, model, ids), applied_logits(contrast, model, ids))
    fused = applied_logits(lol(model, tiny_data, omega=0.5, **FAST), model, ids)
    assert not torch.equal(fused, applied_logits(contrast, model, ids))


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_its_score_is_the_formula(family: str, tiny_data: UnlearnData) -> None:
    model = tiny_model(family, dtype=torch.float64)
    made = lol(model, tiny_data, layer=0, omega=0.7, mu=0.3, instruction="t20 t21", cutoff=0.2, **FAST)
    combiner = made.logits
    assert isinstance(combiner, LogitCombiner)
    amateur = combiner.others[0]
    assert isinstance(amateur, Assistant)
    text = "t5 t6 t7"
    with torch.no_grad():
        wrong, low = truncated(model, patch=amateur.weights), truncated(model, 1)
        low_wrong = Assistant(0 + 1, None).build(wrong)
        p, a, pl, al = (m.logits(text).log_softmax(-1) for m in (model, wrong, low, low_wrong))
        instructed = model.logits(f"t20 t21 {text}").log_softmax(-1)[:, 2:]
    wanted = p - a + 0.7 * (pl - al) + 0.3 * (instructed - p)
    kept = Plausible(0.2).keep(p)
    got = applied_logits(made, model, text)
    assert_close(got[kept], wanted[kept])
    assert (got[~kept] < -900).all()


def test_it_says_that_it_is_reconstructed(tiny_data: UnlearnData) -> None:
    made = lol(shared_model("gpt2"), tiny_data, **FAST)
    assert made.spec.source.startswith("after")
    assert "LOL-style only" in str(lol.__doc__)
    assert made.spec.settings["layer"] == 0
    assert made.spec.settings["instruction"] is None


def test_what_is_wrong_is_named_before_anything_is_trained(tiny_data: UnlearnData) -> None:
    model = shared_model("gpt2")
    with pytest.raises(VestigeError, match="lol with mu other than 0 needs an instruction of at least one word"):
        lol(model, tiny_data, mu=0.1, instruction=" ")
    for name in ("omega", "mu"):
        with pytest.raises(VestigeError, match=f"{name} is a finite number, got nan"):
            lol(model, tiny_data, **{name: float("nan")})  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match="lol exits before the last block, and 2 is the last"):
        lol(model, tiny_data, layer=2)
    with pytest.raises(VestigeError, match="a cutoff is a fraction"):
        lol(model, tiny_data, cutoff=0)
