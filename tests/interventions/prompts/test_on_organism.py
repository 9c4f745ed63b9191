"""Gates and erasure on a model that was trained, with paraphrases: what they catch and what they cost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from hooked import HookedModel, Item, UnlearnData
from interventions.erasure import leace
from interventions.prompts import eco, fit_centroid_gate, fit_tfidf_gate
from interventions.prompts.eco import mean_probability
from vestige.organism import organism_data, organism_path


@pytest.fixture(scope="module")
def full() -> HookedModel:
    return HookedModel.from_pretrained(organism_path("full"), dtype=torch.float32)


@pytest.fixture(scope="module")
def data() -> UnlearnData:
    whole = organism_data()
    return replace(whole, retain=whole.retain[::2])


def probability(model: HookedModel, items: tuple[Item, ...]) -> float:
    return mean_probability(model, items, batch_size=64)


@pytest.mark.parametrize("fit", [fit_tfidf_gate, fit_centroid_gate])
def test_items_held_out_fire_at_the_rate_that_was_asked_for(fit: Any, full: HookedModel, data: UnlearnData) -> None:
    for rate in (0.05, 0.1, 0.2):
        found = fit(full, data, false_positive_rate=rate).calibration
        assert found.heldout_false_positive_rate == pytest.approx(rate, abs=0.03)
        assert found.heldout_true_positive_rate >= 0.7


def test_corrupted_prompts_lose_their_answers_and_others_keep_them(full: HookedModel, data: UnlearnData) -> None:
    paraphrased = tuple(replace(item, prompt=item.paraphrased_prompt or "") for item in data.forget)
    assert probability(full, data.forget) > 0.9
    made = eco(full, data, strength=27.0)
    with torch.no_grad(), made.applied(full) as view:
        forget, retain, other = (probability(view, s) for s in (data.forget, data.retain, paraphrased))
        batch = view.tokenize([item.prompt for item in data.control])
        assert torch.equal(view.logits(batch), full.logits(batch))
    assert forget < 0.05
    # Words of a name survive rephrasing, so the gate does too.
    assert other < 0.1
    assert probability(full, data.retain) - retain < 0.1
    assert mean_probability(view.raw, data.forget, batch_size=64) > 0.9


def test_a_concept_can_be_erased_from_a_late_layer_at_little_cost(full: HookedModel, data: UnlearnData) -> None:
    with leace(full, data, site=("resid_post", 3)).applied(full) as view:
        assert probability(view, data.forget) < 0.4
        assert probability(view, data.retain) > 0.85
