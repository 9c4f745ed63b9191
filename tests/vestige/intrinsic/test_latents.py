"""The latents of the shipped SAE that mark the concept: in the original, in models that never knew it, behind hooks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hooked import HookedModel, UnlearnData, VestigeError
from interventions import neuron_adjust
from sae import load_sae, read_coder
from tests.tiny import tiny_model
from tests.vestige import build
from vestige import audit, organism
from vestige.checks.latents import latent_survival
from vestige.intrinsic.latents import MARKS, MOST, ConceptLatents, Survival
from vestige.items import audit_items
from vestige.report import render_html
from vestige.result import Result, SubjectInfo
from vestige.subjects import Subject

LAYER = 2


@pytest.fixture(scope="module")
def full() -> HookedModel:
    return HookedModel.from_pretrained(organism.organism_path("full"), dtype="float32")


@pytest.fixture(scope="module")
def data() -> UnlearnData:
    return audit_items(organism.organism_data(), max_items=200, seed=0)


@pytest.fixture(scope="module")
def results(full: HookedModel, data: UnlearnData) -> dict[tuple[str, str], Result]:
    """What the check says of the original, models that never knew, and a method that only hooks."""
    marking = ConceptLatents(full, load_sae(organism.organism_sae(LAYER)), data, seed=0)

    def read(name: str, model: HookedModel, raw: HookedModel) -> Survival | str:
        return marking.read(Subject(SubjectInfo(name, "unlearned"), model, raw))

    found = {"original": read("original", full, full)}
    for name in ("retain", "never"):
        other = HookedModel.from_pretrained(organism.organism_path(name), dtype="float32")
        found[name] = read(name, other, other)
    with neuron_adjust(full, data).applied(full) as view:
        found["neuron_adjust"] = read("neuron_adjust", view, view.raw)
    bare = build.evidence({name: build.reading([0.5]) for name in found})
    return {(r.check, r.subject): r for r in latent_survival(replace(bare, latents=found))}


def value(results: dict[tuple[str, str], Result], check: str, subject: str) -> float:
    found = results[check, subject].estimate
    assert found is not None
    return found


def test_the_original_is_marked_and_models_that_never_knew_are_not(results: dict[tuple[str, str], Result]) -> None:
    assert value(results, "latent_survival", "original") > 0.9
    for name in ("retain", "never"):
        assert value(results, "latent_survival", name) < 0.65
    for (check, _), result in results.items():
        # Latents that fire about as often do not mark it in any model.
        assert check == "sae_explained_variance" or (result.floor or 0.0) < 0.55


def test_hooks_silence_latents_whose_weights_keep_them(results: dict[tuple[str, str], Result]) -> None:
    assert value(results, "latent_survival", "neuron_adjust") < 0.7
    bare = results["raw_latent_survival", "neuron_adjust"]
    assert bare.per_item == results["raw_latent_survival", "original"].per_item


def test_the_sae_reads_what_it_was_made_for(results: dict[tuple[str, str], Result]) -> None:
    assert value(results, "sae_explained_variance", "original") > 0.95
    assert value(results, "sae_explained_variance", "neuron_adjust") > 0.9
    assert value(results, "sae_explained_variance", "never") < 0.7
    assert "below 0.7" in results["latent_survival", "never"].note


def test_an_audit_reports_them_and_says_which_they_are(full: HookedModel, data: UnlearnData) -> None:
    given = {"max_items": 12, "max_new_tokens": 1, "top_vectors": 0, "progress": False}
    report = audit(full, data=data, sae=load_sae(organism.organism_sae(LAYER)), **given)
    described = report.provenance["sae"]
    assert described["site"] == f"blocks.{LAYER}.hook_resid_post"
    assert 0 < len(described["latents"]) <= MOST
    assert report.result("latent_survival", "original").estimate is not None
    page = render_html(report)
    assert "Latent survival" in page
    assert "Explained variance of the SAE" in page


def test_the_asked_half_chose_nothing(full: HookedModel, data: UnlearnData) -> None:
    sae = load_sae(organism.organism_sae(LAYER))
    first = ConceptLatents(full, sae, data, seed=0)
    again = ConceptLatents(full, sae, data, seed=0)
    assert first.described() == again.described()
    found = first.read(Subject(SubjectInfo("original", "original"), full, full))
    assert not isinstance(found, str)
    assert found.view is found.raw
    assert found.view.chosen.shape == (len(first.latents), len(data.forget) // 2)
    assert float(found.view.chosen.mean()) > MARKS


def test_what_cannot_be_followed_is_said(full: HookedModel, data: UnlearnData, monkeypatch: pytest.MonkeyPatch) -> None:
    coder = read_coder(load_sae(organism.organism_sae(LAYER)))
    alone = UnlearnData(data.forget[:1], data.retain[:5])
    assert "state one fact" in ConceptLatents(full, coder, alone, seed=0).why_not
    single = UnlearnData(data.forget, data.retain[:1])
    assert "one retain item" in ConceptLatents(full, coder, single, seed=0).why_not
    with monkeypatch.context() as higher:
        higher.setattr("vestige.intrinsic.latents.MARKS", 1.1)
        deaf = ConceptLatents(full, coder, data, seed=0)
    assert deaf.read(Subject(SubjectInfo("original", "original"), full, full)) == deaf.why_not
    assert "no latent of the SAE at blocks.2.hook_resid_post tells forget from retain" in deaf.why_not
    with pytest.raises(VestigeError, match="there is none"):
        ConceptLatents(full, coder, UnlearnData(data.forget), seed=0)
    with pytest.raises(VestigeError, match="the SAE does not fit the model"):
        ConceptLatents(tiny_model("gpt2"), coder, data, seed=0)
