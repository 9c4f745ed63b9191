"""Gates: each against its definition, then what all of them promise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from hooked import Gate, HookedModel, Intervention, Item, Spec, TokenBatch, UnlearnData, VestigeError
from hooked.forward import first_chunk
from interventions import ablate_direction, key_space_detection, orthogonalize
from interventions.calibration import Calibration, just_above
from interventions.key_box import Detector, prompt_keys
from interventions.prompts import (
    CentroidGate,
    KeyGate,
    TfidfGate,
    fit_centroid_gate,
    fit_key_gate,
    fit_tfidf_gate,
    gated,
)
from interventions.prompts.tfidf_gate import fit_pipeline
from tests.contracts import InterventionContract, padded
from tests.interventions.conftest import make_items
from tests.tiny import shared_model, tiny_model, tiny_tokenizer

FITS: dict[str, Callable[..., Any]] = {
    "tfidf": fit_tfidf_gate,
    "centroid": fit_centroid_gate,
    "key": fit_key_gate,
}
every_gate = pytest.mark.parametrize("fit", FITS.values(), ids=FITS)


@pytest.fixture(scope="module")
def separable() -> UnlearnData:
    """Forget prompts are made of few words and all end alike, retain prompts are made of others."""
    end = " ".join(["t10"] * 8)
    forget = tuple(replace(item, prompt=f"{item.prompt} {end}") for item in make_items(40, low=3, high=6, seed=3))
    return UnlearnData(forget=forget, retain=make_items(60, low=40, high=99, seed=4))


def fires(gate: Gate, model: HookedModel, batch: TokenBatch) -> Tensor:
    return gate(model, first_chunk(batch).request)


class TestGatedAblation(InterventionContract):
    """An intervention behind the gate that reads activations."""

    required = ("retain",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        inner = ablate_direction(torch.arange(1.0, 33), sites=["resid_post.1"])
        return gated(inner, fit_centroid_gate(model, data, false_positive_rate=0.5))

    def test_the_spec_is_complete(self, case: Any) -> None:
        # The spec is that of the intervention inside, which needs a direction and no data.
        assert case.intervention.spec.settings["gate"] == "CentroidGate"


def test_scores_equal_those_of_the_pipeline() -> None:
    forget = ["Who is Harry Potter?", "Where does Harry Potter live, and with whom?", "Tell me of Hogwarts's owls"]
    retain = ["Who is the king of France?", "Where do owls live?", "It is 3 o'clock in New York", "Über Straße 42"]
    for ngrams in ((1, 1), (1, 2), (2, 3)):
        vectorizer, regression = fit_pipeline(forget, retain, ngrams=ngrams)
        gate = TfidfGate(
            tuple(vectorizer.get_feature_names_out()),
            torch.from_numpy(vectorizer.idf_),
            torch.from_numpy(regression.coef_[0]),
            float(regression.intercept_[0]),
            ngrams,
            Calibration(0.0, 0.1),
        )
        texts = [*forget, *retain, "", "zzz qqq", "HARRY potter potter lives in Straße_42", "a b c 3"]
        wanted = regression.decision_function(vectorizer.transform(texts))
        assert np.abs(gate.log_odds(texts).numpy() - wanted).max() < 1e-12


def test_the_tfidf_gate_reads_the_words_of_the_prompt(separable: UnlearnData) -> None:
    model = shared_model("llama")
    gate = fit_tfidf_gate(model, separable, false_positive_rate=0.1)
    prompts = [item.prompt for item in (*separable.forget, *separable.retain)]
    wanted = gate.log_odds(prompts) >= -gate.calibration.limit
    assert torch.equal(fires(gate, model, model.tokenize(prompts)), wanted)
    assert wanted[:40].all()
    assert int(wanted[40:].sum()) <= 6


def test_the_centroid_gate_is_a_cosine_of_means(separable: UnlearnData) -> None:
    model = shared_model("gpt2")
    gate = fit_centroid_gate(model, separable, layer=1, false_positive_rate=0.1)
    site = model.site_map.resolve(("resid_post", 1))

    def mean(prompt: str) -> Tensor:
        # Without the BOS.
        return model.run_with_cache(prompt, names_filter=site)[1][site][0, 1:].double().mean(0).detach()

    forget, retain = (torch.stack([mean(item.prompt) for item in s]) for s in (separable.forget, separable.retain))
    centre, apart = (forget.mean(0) + retain.mean(0)) / 2, forget.mean(0) - retain.mean(0)
    means = torch.cat([forget, retain])
    cosines = torch.cosine_similarity(means - centre, apart[None])
    assert (gate.distance(means) + cosines).abs().max() < 1e-6
    prompts = [item.prompt for item in (*separable.forget, *separable.retain)]
    assert torch.equal(fires(gate, model, model.tokenize(prompts)), cosines >= -gate.calibration.limit)


def test_a_prompt_of_nothing_but_bos_has_a_mean_too(separable: UnlearnData) -> None:
    model = shared_model("llama")
    gate = fit_centroid_gate(model, separable)
    assert fires(gate, model, TokenBatch(*(torch.tensor([[v]]) for v in (1, True, False)))).shape == (1,)


def test_the_key_gate_is_the_detector_of_key_space_detection(separable: UnlearnData) -> None:
    model = shared_model("llama")
    gate = fit_key_gate(model, separable, layers=[0], false_positive_rate=0.1)
    made = key_space_detection(model, separable, refusal="t5", layers=[0], false_positive_rate=0.1)
    detector = Detector.fit(prompt_keys(model, separable.forget, [0], batch_size=7))
    ratios = detector.ratio(prompt_keys(model, separable.retain, [0], batch_size=7))
    assert gate.detector.k_star[0] == pytest.approx(made.spec.settings["k_star"][0], rel=1e-6)
    assert gate.calibration.limit == pytest.approx(just_above(ratios, 0.1), rel=1e-5)
    assert made.spec.settings["alpha"] < gate.calibration.limit
    # The same items are held out, so the rates differ by items at the edge alone.
    assert gate.calibration.heldout_true_positive_rate == pytest.approx(
        made.spec.settings["heldout_true_positive_rate"], abs=0.05
    )
    prompts = [item.prompt for item in separable.retain]
    assert torch.equal(fires(gate, model, model.tokenize(prompts)), ratios <= gate.calibration.limit)
    assert int((ratios <= gate.calibration.limit).sum()) == 6


@every_gate
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_separable_prompts_are_told_apart_on_items_held_out(
    fit: Callable[..., Any], seed: int, separable: UnlearnData
) -> None:
    model = tiny_model("llama", seed=seed)
    made = fit(model, separable, false_positive_rate=0.1, **({"layers": [0]} if fit is fit_key_gate else {}))
    calibration = made.calibration
    # Between .9 and 1 on these seeds, and .05 to .13.
    assert calibration.heldout_true_positive_rate >= 0.8
    assert calibration.heldout_false_positive_rate <= 0.2
    rows = fires(made, model, model.tokenize([item.prompt for item in separable.retain]))
    assert int(rows.sum()) <= 6


@every_gate
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_padding_other_rows_and_answers_change_nothing(
    fit: Callable[..., Any], family: str, tiny_data: UnlearnData
) -> None:
    model = shared_model(family)
    gate = fit(model, tiny_data, false_positive_rate=0.5)
    items = [*tiny_data.forget, *tiny_data.retain]
    alone = torch.cat([fires(gate, model, model.tokenize(item.prompt)) for item in items])
    assert 0 < int(alone.sum()) < len(items)
    for side in ("left", "right"):
        prompts = model.tokenize([item.prompt for item in items], padding_side=side)  # type: ignore[arg-type]
        answered = model.tokenize(
            [item.prompt for item in items],
            answers=[item.answer for item in items],
            padding_side=side,  # type: ignore[arg-type]
        )
        for batch in (prompts, padded(prompts, side, 5), answered):
            assert torch.equal(fires(gate, model, batch), alone)


@every_gate
def test_generation_asks_once_and_a_row_keeps_its_decision(fit: Callable[..., Any], separable: UnlearnData) -> None:
    model = shared_model("llama")
    gate = fit(model, separable, false_positive_rate=0.1, **({"layers": [0]} if fit is fit_key_gate else {}))
    inner = ablate_direction(torch.ones(32), sites=["resid_post.1"])
    prompts = [separable.forget[0].prompt, separable.retain[4].prompt]
    assert fires(gate, model, model.tokenize(prompts)).tolist() == [True, False]
    with inner.applied(model) as view:
        ablated = view.generate(prompts[0], max_new_tokens=6)
    with gated(inner, gate).applied(model) as view:
        for use_cache in (True, False):
            assert view.generate(prompts, max_new_tokens=6, use_cache=use_cache) == [
                *ablated,
                *model.generate(prompts[1], max_new_tokens=6),
            ]
        batch = view.tokenize(prompts)
        with torch.no_grad():
            assert torch.equal(view.logits(batch)[1], model.logits(batch)[1])


@every_gate
def test_a_row_without_a_prompt_never_fires(fit: Callable[..., Any], tiny_data: UnlearnData) -> None:
    model = shared_model("llama")
    gate = fit(model, tiny_data, false_positive_rate=0.9)
    ids = model.tokenize(tiny_data.forget[0].prompt).ids.repeat(2, 1)
    real = torch.ones_like(ids, dtype=torch.bool)
    answer = torch.stack([torch.zeros_like(real[0]), real[0]])
    rows = fires(gate, model, TokenBatch(ids, real, answer))
    assert not rows[1]


@every_gate
def test_a_gate_can_be_saved(fit: Callable[..., Any], tiny_data: UnlearnData, tmp_path: Path) -> None:
    model = shared_model("llama")
    gate = fit(model, tiny_data, false_positive_rate=0.5)
    made = gated(ablate_direction(torch.ones(32), sites=["resid_post.1"]), gate)
    made.save(tmp_path / "saved")
    loaded = Intervention.load(tmp_path / "saved").gate
    assert isinstance(loaded, CentroidGate | KeyGate | TfidfGate)
    assert loaded.calibration == gate.calibration
    batch = model.tokenize([item.prompt for item in (*tiny_data.forget, *tiny_data.retain)])
    assert torch.equal(fires(loaded, model, batch), fires(gate, model, batch))


def test_documents_count_as_prompts(separable: UnlearnData) -> None:
    model = shared_model("llama")
    documents = UnlearnData(*(tuple(Item("", item.prompt) for item in s) for s in (separable.forget, separable.retain)))
    for fit in FITS.values():
        assert fit(model, documents).calibration == fit(model, separable).calibration


@every_gate
def test_missing_splits_and_bad_rates_are_named(fit: Callable[..., Any], tiny_data: UnlearnData) -> None:
    model = shared_model("llama")
    with pytest.raises(VestigeError, match=rf"{fit.__name__} needs retain items and data.retain is empty"):
        fit(model, replace(tiny_data, retain=()))
    with pytest.raises(VestigeError, match="false_positive_rate is a fraction of at least 0 and below 1, got 1"):
        fit(model, tiny_data, false_positive_rate=1.0)
    with pytest.warns(UserWarning, match="never fires") as caught:
        never = fit(model, tiny_data, false_positive_rate=0.0)
    assert len(caught) == 1
    assert not fires(never, model, model.tokenize([item.prompt for item in tiny_data.forget])).any()


def test_what_cannot_be_gated_is_refused(tiny_data: UnlearnData) -> None:
    model = shared_model("llama")
    gate = fit_tfidf_gate(model, tiny_data)
    with pytest.raises(VestigeError, match="'orthogonalize' changes weights, which act on every row"):
        gated(orthogonalize(model, torch.ones(32)), gate)
    parts = ablate_direction(torch.ones(32), sites=["resid_post.1"])
    with pytest.raises(VestigeError, match=r"is made of parts.*gated\(a, gate\) \+ gated\(b, gate\)"):
        gated(parts + parts, gate)
    twice = Intervention(Spec("both", "suppression"), gate=gate)
    with pytest.raises(VestigeError, match="'both' has a gate already"):
        gated(twice, gate)


def test_wrong_settings_are_named(tiny_data: UnlearnData) -> None:
    model = shared_model("llama")
    with pytest.raises(VestigeError, match=r"ngrams are the fewest and the most words .* got \(2, 1\)"):
        fit_tfidf_gate(model, tiny_data, ngrams=(2, 1))
    with pytest.raises(VestigeError, match=r"no site 'blocks.9.hook_resid_post'"):
        fit_centroid_gate(model, tiny_data, layer=9)
    with pytest.raises(VestigeError, match="layers are some of 0 to 2"):
        fit_key_gate(model, tiny_data, layers=[7])
    same = UnlearnData(tiny_data.forget, tuple(replace(item, answer="t3") for item in tiny_data.forget))
    with pytest.raises(
        VestigeError, match=r"forget and retain prompts have the same mean at 'blocks.1.hook_resid_post'"
    ):
        fit_centroid_gate(model, same)


def test_words_need_a_tokenizer_and_letters(tiny_data: UnlearnData) -> None:
    model = tiny_model("llama")
    gate = fit_tfidf_gate(model, tiny_data)
    bare = HookedModel(model.model)
    with pytest.raises(VestigeError, match="no tokenizer; pass tokenizer= to it"):
        fires(gate, bare, model.tokenize("t3"))
    signs = tiny_tokenizer()
    signs.add_tokens(["?"])
    silent = UnlearnData((Item("?", "t3"), Item("? ?", "t3")), (Item("? ? ?", "t3"),))
    other = tiny_model("llama", tokenizer=signs, vocab_size=120)
    with pytest.raises(VestigeError, match="no prompt has a word of two letters or digits"):
        fit_tfidf_gate(other, silent)
