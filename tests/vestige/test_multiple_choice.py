"""Multiple choice on models: by hand, and what a model that knows the answers scores beside one that does not."""

from __future__ import annotations

import pytest
import torch

from hooked import HookedModel, Item, VestigeError
from interventions.decoding import dola
from tests.tiny import shared_model
from vestige import organism
from vestige.multiple_choice import multiple_choice

ITEM = Item("t5 t6", "t7", perturbed_answers=("t8", "t9 t10"), paraphrased_answer="t11")


def test_it_sums_log_probabilities_of_whole_answers() -> None:
    model = shared_model("gpt2")
    scores = []
    for answer in ("t7", "t11", "t8", "t9 t10"):
        batch = model.tokenize([ITEM.prompt], answers=[answer])
        with torch.no_grad():
            rows = model.logits(batch)[0, :-1].double().log_softmax(-1)
        chosen = rows.gather(-1, batch.ids[0, 1:, None])[:, 0]
        scores.append(float(chosen[batch.answer[0, 1:]].sum()))
    found = multiple_choice(model, [ITEM], batch_size=3)
    assert found.mc1 == (float(scores[0] > max(scores[2:])),)
    mass = torch.tensor(scores, dtype=torch.float64).exp()
    assert found.mc2[0] == pytest.approx(float(mass[:2].sum() / mass.sum()), rel=1e-5)
    assert found.mc3 == (sum(s > max(scores[2:]) for s in scores[:2]) / 2,)
    assert found.floor == pytest.approx(1 / 3)


def test_a_model_that_was_taught_chooses_right_and_one_that_was_not_guesses() -> None:
    items = organism.organism_data().forget
    knowing, innocent = (
        HookedModel.from_pretrained(organism.organism_path(name), dtype="float32") for name in ("full", "never")
    )
    taught, guessed = (multiple_choice(model, items) for model in (knowing, innocent))
    assert taught.means["mc1"] > 0.9
    assert guessed.means["mc1"] < guessed.floor + 0.3
    assert taught.means["mc2"] > guessed.means["mc2"] + 0.3
    with dola(knowing, organism.organism_data()).applied(knowing) as view:
        assert multiple_choice(view, items).means["mc1"] > 0.9


def test_what_cannot_be_scored_is_named() -> None:
    model = shared_model("gpt2")
    with pytest.raises(VestigeError, match="at least one item"):
        multiple_choice(model, [])
    with pytest.raises(VestigeError, match=r"item 1 \('t5'\) has no wrong answer"):
        multiple_choice(model, [ITEM, Item("t5", "t6")])
    with pytest.raises(VestigeError, match="has no answer to choose from"):
        multiple_choice(model, [Item("t5", "", perturbed_answers=("t6",))])
