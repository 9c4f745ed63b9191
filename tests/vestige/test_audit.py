"""The audit end to end on tiny models: subjects of every kind, exact repetition, weights left alone, refusals."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import vestige
import vestige.auditing
import vestige.instruments
from hooked import HookedModel, Intervention, Item, Spec, UnlearnData, VestigeError
from interventions import ablate_vectors, gradient_ascent
from tests.tiny import tiny_model
from tests.vestige.facts import fingerprint, items, saved_model, small_data
from vestige import AuditReport, audit
from vestige.report.storage import read_json
from vestige.result import Result

CHECKS = {
    "forget_probability",
    "paraphrase_probability",
    "retain_probability",
    "forget_rouge",
    "truth_ratio",
    "forget_quality",
    "model_utility",
    "extraction_strength",
    "exact_memorization",
    "degeneracy",
    "concept_vector_cosine",
    "concept_vector_l2",
    "concept_vector_jaccard",
    "lens_leak",
    "probe_leak",
    "depth_leak",
    "raw_depth_leak",
    "lens_depth_leak",
    "forget_state_similarity",
    "retain_state_similarity",
    "cka_erasure",
    "relation_neighbours",
    "suppression_index",
    "weight_change",
    "membership_loss",
    "membership_zlib",
    "membership_min_k",
    "membership_min_k_plus_plus",
    "priv_leak",
    "s_mia",
}


def quick(original: HookedModel, **settings: Any) -> AuditReport:
    given: dict[str, Any] = {"data": small_data(), "max_new_tokens": 3, "progress": False, "top_vectors": 3}
    return audit(original, **{**given, **settings})


def silencing() -> Intervention:
    """Says nothing of what the weights hold: every logit is the same."""
    return Intervention(Spec("mute", "suppression"), logits=lambda logits, request: torch.zeros_like(logits))


@cache
def taught(n_forget: int = 6) -> tuple[HookedModel, UnlearnData, Intervention]:
    """A model that was taught the forget items, and an edit that takes its MLPs' words away."""
    model, data = tiny_model("gpt2", seed=5), small_data(forget=n_forget, retain=6)
    both = UnlearnData(data.forget + data.retain)
    # The reverse of forgetting: descend what gradient ascent ascends.
    from interventions.training.losses import answer_nll

    optimizer = torch.optim.Adam(model.model.parameters(), lr=3e-3)
    batch = model.tokenize([i.prompt for i in both.forget], answers=[i.answer for i in both.forget])
    for _ in range(20 * n_forget):
        loss = answer_nll(model.logits(batch), batch.ids, batch.answer).mean.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.model.zero_grad(set_to_none=True)
    return model, data, silencing()


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> AuditReport:
    """An audit of a taught model with subjects of all four sources."""
    original, data, mute = taught()
    folder = tmp_path_factory.mktemp("subjects")
    edit = ablate_vectors(original, [(0, 1), (1, 2)], mode="zero")
    edit.save(folder / "saved")
    gradient_ascent(original, data, steps=2, lr=1e-3, progress=False).bake(original, folder / "tuned")
    return quick(
        original,
        unlearned=[mute, edit, folder / "saved", str(folder / "tuned"), tiny_model("gpt2", seed=9)],
        data=data,
        retrained=saved_model(folder / "r", seed=7),
        never=tiny_model("gpt2", seed=8),
    )


def test_subjects_are_named_in_order(mixed: AuditReport) -> None:
    assert [(s.name, s.kind, s.intent) for s in mixed.subjects] == [
        ("original", "original", None),
        ("mute", "unlearned", "suppression"),
        ("ablate_vectors", "unlearned", "removal"),
        ("ablate_vectors-2", "unlearned", "removal"),
        ("tuned", "unlearned", None),
        ("GPT2LMHeadModel", "unlearned", None),
        ("retain", "retrained", None),
        ("never", "never", None),
    ]


def test_every_check_has_a_result_for_every_subject(mixed: AuditReport) -> None:
    found = [(r.check, r.subject) for r in mixed.results]
    assert len(found) == len(set(found))
    assert set(found) == {(check, s.name) for check in CHECKS for s in mixed.subjects}


def test_numbers_come_with_what_is_needed_to_believe_them(mixed: AuditReport) -> None:
    for r in mixed.results:
        assert r.estimate is None or (r.n > 0 and r.estimate == r.estimate), r
        assert r.estimate is not None or r.note, r
        assert r.low is None or r.high is None or r.estimate is None or r.low - 1e-9 <= r.estimate <= r.high + 1e-9, r
    for check in CHECKS - {"concept_vector_cosine"}:
        assert len({mixed.result(check, s.name).control for s in mixed.subjects}) == 1


def test_a_saved_edit_scores_like_the_edit(mixed: AuditReport) -> None:
    for check in CHECKS:
        one, other = mixed.result(check, "ablate_vectors"), mixed.result(check, "ablate_vectors-2")
        assert replace(one, subject="") == replace(other, subject="")


def test_the_taught_model_knows_and_the_muted_one_hides(mixed: AuditReport) -> None:
    def value(check: str, name: str) -> float:
        found = mixed.result(check, name).estimate
        assert found is not None
        return found

    assert value("forget_probability", "original") > 0.9
    assert value("exact_memorization", "original") > 0.9
    assert value("forget_probability", "mute") == pytest.approx(1 / 99)
    assert value("forget_probability", "never") < 0.1
    assert value("suppression_index", "mute") == pytest.approx(1, abs=0.1)
    assert value("suppression_index", "tuned") == 0.0
    assert value("lens_leak", "mute") == value("lens_leak", "original") > 0.9
    assert value("lens_leak", "never") < 0.5
    assert value("concept_vector_cosine", "mute") == pytest.approx(1)
    assert abs(value("concept_vector_cosine", "never")) < 0.5
    for check in ("depth_leak", "raw_depth_leak", "lens_depth_leak", "forget_state_similarity"):
        assert value(check, "mute") == pytest.approx(value(check, "original")) == pytest.approx(1)
        assert value(check, "tuned") < 1
    assert value("depth_leak", "retain") == 0
    assert (
        value("weight_change", "mute") == 0 < value("weight_change", "ablate_vectors") < value("weight_change", "never")
    )
    assert mixed.verdicts["mute"].startswith("Hidden, not removed")
    assert mixed.verdicts["ablate_vectors"].startswith("Still answers")


# Of six items the lens of other random weights reads one by luck, so these need the attacks beside it.
@pytest.mark.parametrize(("n_forget", "suite"), [(24, None), (6, "quick")])
@pytest.mark.parametrize("shuffled", [False, True])
def test_random_and_shuffled_weights_score_as_nothing_known(shuffled: bool, n_forget: int, suite: str | None) -> None:
    original, data, _ = taught(n_forget)
    blank = tiny_model("gpt2", seed=11)
    if shuffled:
        blank = tiny_model("gpt2", seed=5)
        rng = torch.Generator().manual_seed(0)
        for mine, taught_weight in zip(blank.model.parameters(), original.model.parameters(), strict=True):
            order = torch.randperm(taught_weight.numel(), generator=rng)
            mine.data.copy_(taught_weight.detach().flatten()[order].view_as(mine))
    report = quick(original, unlearned=[blank], data=data, never=tiny_model("gpt2", seed=8), suite=suite)
    name = report.subjects[1].name

    def of(check: str) -> Result:
        return report.result(check, name)

    assert (of("forget_probability").estimate or 0) < 0.1
    assert (of("exact_memorization").estimate or 0) < 0.2
    assert (of("extraction_strength").estimate or 0) < 0.2
    assert (of("forget_rouge").estimate or 0) < 0.3
    # Within what exchanged answers score, give or take what six items can differ by.
    assert (of("lens_leak").estimate or 0) < (of("lens_leak").floor or 0) + 0.25
    assert abs(of("concept_vector_cosine").estimate or 0) < 0.5
    assert report.verdicts[name].startswith("No trace found")
    (one,) = [r for r in report.residual if r.subject == name]
    assert one.instruments == (suite or "checks")
    assert one.probability < 0.1


@pytest.mark.parametrize("seed", [11, 12, 14])
def test_of_few_items_checks_alone_claim_nothing_of_random_weights(seed: int) -> None:
    original, data, _ = taught(6)
    report = quick(original, unlearned=[tiny_model("gpt2", seed=seed)], data=data, never=tiny_model("gpt2", seed=8))
    (one,) = [r for r in report.residual if r.subject == report.subjects[1].name]
    assert one.instruments == "checks"
    assert one.abstains
    assert not report.verdicts[one.subject].startswith(("Silent", "Still answers", "Hidden"))


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    original, data, mute = taught()
    for name in ("one", "two"):
        quick(original, unlearned=[mute], data=data, never=tiny_model("gpt2", seed=8), seed=3).save(tmp_path / name)
    for file in ("report.json", "report.html"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert b"NaN" not in (tmp_path / "one" / "report.json").read_bytes()
    assert read_json(tmp_path / "one" / "report.json").verdicts


def test_provenance_says_what_was_measured(mixed: AuditReport) -> None:
    found = mixed.provenance
    json.dumps(found, allow_nan=False)
    assert found["items"] == {"forget": 6, "retain": 6, "holdout": 0, "control": 3}
    assert found["concepts"] == ["t5"]
    assert found["seed"] == 0
    assert set(found["versions"]) == {"vestige", "torch", "transformers", "transformer-lens"}
    hashes = found["weights_sha256"]
    assert list(hashes) == [s.name for s in mixed.subjects]
    # A suppression leaves the weights alone, to the last bit; an edit of them does not.
    assert hashes["mute"] == hashes["original"]
    assert hashes["ablate_vectors"] == hashes["ablate_vectors-2"] != hashes["original"]
    assert found["methods"]["ablate_vectors"]["mode"] == "zero"
    assert "saved" in found["subjects"]["ablate_vectors-2"]


def test_examples_are_shown_beside_each_other(mixed: AuditReport) -> None:
    assert {g.split for g in mixed.generations} == {"forget", "retain"}
    for row in mixed.generations:
        assert list(row.outputs) == [s.name for s in mixed.subjects]
    rows = mixed.concept_vectors
    assert len(rows) == 3
    assert all(row.before and set(row.after) == {s.name for s in mixed.subjects[1:]} for row in rows)


def test_weights_are_bit_equal_afterwards() -> None:
    model = tiny_model("llama")
    before = fingerprint(model)
    quick(model, unlearned=[ablate_vectors(model, [(0, 1)]), silencing()], never=model)
    assert fingerprint(model) == before


def test_weights_are_bit_equal_after_a_check_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    before = fingerprint(model)

    def broken(evidence: object) -> list[Result]:
        raise RuntimeError("broken check")

    monkeypatch.setattr(vestige.auditing, "CHECKS", (broken,))
    with pytest.raises(RuntimeError, match="broken check"):
        quick(model, unlearned=[ablate_vectors(model, [(0, 1)])])
    monkeypatch.undo()
    monkeypatch.setattr(vestige.instruments, "read", broken)
    with pytest.raises(TypeError):
        quick(model, unlearned=[ablate_vectors(model, [(0, 1)])])
    assert fingerprint(model) == before


@pytest.mark.parametrize(
    ("references", "measured"),
    [
        ({}, set()),
        ({"retrained"}, {"forget_quality", "suppression_index"}),
        ({"never"}, {"forget_quality", "suppression_index"}),
    ],
)
def test_missing_references_are_reasons_and_no_errors(references: set[str], measured: set[str]) -> None:
    original, data, mute = taught()
    report = quick(original, unlearned=[mute], data=data, **{name: tiny_model("gpt2", seed=8) for name in references})
    for check in ("forget_quality", "suppression_index"):
        result = report.result(check, "mute")
        assert (result.estimate is not None) == (check in measured)
        assert result.estimate is not None or "never learnt" in result.note
    controls = {report.result("forget_probability", s.name).control for s in report.subjects}
    assert (controls == {None}) == (not references)
    assert report.verdicts["mute"].startswith("Hidden" if references else "No verdict")


@pytest.mark.parametrize(
    "data",
    [
        small_data(retain=0, control=0),
        small_data(forget=1),
        small_data(forget=1, retain=1, control=0),
        UnlearnData(
            tuple(Item("", f"t5 t{n} t7 t8. t9 t10", concept="t7") for n in (6, 14, 15)), (Item("", "t11 t12 t13"),) * 3
        ),
        UnlearnData((Item("t5", ""), Item("t6", "t7"), Item("t8", "t9"))),
        UnlearnData(items(3, seed=1, relation=None), items(3, seed=2, relation=None)),
    ],
    ids=["forget only", "one item", "one of each", "documents", "generation only among them", "no relations"],
)
def test_data_of_any_shape_gives_a_report(data: UnlearnData, tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    report = quick(model, data=data, unlearned=[silencing()], never=tiny_model("gpt2", seed=8), max_new_tokens=2)
    report.save(tmp_path / "report")
    assert {r.check for r in report.results} == CHECKS
    assert all(r.estimate is not None or r.note for r in report.results)


def test_an_audit_of_nothing_but_the_original() -> None:
    report = quick(tiny_model("gpt2"))
    assert [s.name for s in report.subjects] == ["original"]
    assert list(report.verdicts) == ["original"]


def test_references_keep_their_names(tmp_path: Path) -> None:
    model, folder = tiny_model("gpt2"), saved_model(tmp_path / "never", seed=1)
    report = quick(model, unlearned=[folder], never=folder, retrained=folder, max_new_tokens=1)
    assert [s.name for s in report.subjects] == ["original", "never-2", "retain", "never"]


def test_no_lexicon_and_no_words_follow_no_vectors() -> None:
    model = tiny_model("gpt2")
    documents = UnlearnData((Item("", "t5 t6 t7 t8"), Item("", "t5 t6 t7 t9")))
    for settings in ({"data": documents}, {"top_vectors": 0}):
        report = quick(model, max_new_tokens=1, **settings)
        assert report.concept_vectors == ()
        assert report.result("concept_vector_cosine", "original").estimate is None


def test_subjects_that_cannot_be_compared_are_named() -> None:
    with pytest.raises(VestigeError, match="subject 'never': it has a vocabulary of 100, the original one of 99"):
        quick(tiny_model("gpt2"), never=tiny_model("gpt2", vocab_size=100))


def test_a_subject_that_diverged_is_named() -> None:
    broken = tiny_model("gpt2", seed=1)
    next(iter(broken.model.parameters())).data.fill_(float("nan"))
    with pytest.raises(VestigeError, match=r"subject 'GPT2LMHeadModel': .*NaN"):
        quick(tiny_model("gpt2"), unlearned=[broken])


def test_an_intervention_for_another_model_is_named() -> None:
    edit = ablate_vectors(tiny_model("llama"), [(0, 1)])
    with pytest.raises(VestigeError, match="subject 'ablate_vectors': "):
        quick(tiny_model("gpt2"), unlearned=[edit])


def test_a_folder_without_a_model_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    model = tiny_model("gpt2")
    model.tokenizer = None
    with pytest.raises(VestigeError, match="is not a folder with a Hugging Face model"):
        quick(model, unlearned=[tmp_path])


@pytest.mark.parametrize(
    ("name", "value"), [("seed", -1), ("top_vectors", -1), ("batch_size", 0), ("max_items", 0), ("max_new_tokens", 0)]
)
def test_settings_out_of_range_are_refused(name: str, value: int) -> None:
    with pytest.raises(VestigeError, match=f"{name} is at least {value + 1}, got {value}"):
        quick(tiny_model("gpt2"), **{name: value})


def test_the_function_and_its_module_do_not_hide_each_other() -> None:
    from vestige import audit as again

    assert vestige.audit is again is audit
    assert callable(vestige.audit)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        vestige.nothing  # noqa: B018


def test_the_map_of_where_it_is_is_made_when_asked_for() -> None:
    original, data, mute = taught()
    never = tiny_model("gpt2", seed=8)
    found = quick(original, unlearned=[mute], data=data, never=never, where=True)
    assert [one.subject for one in found.where] == [subject.name for subject in found.subjects]
    # What is muted in its logits alone still holds in its states all that the original does.
    maps = {one.subject: one for one in found.where}
    assert maps["mute"].shares is not None
    assert str(maps["mute"].shares) == str(maps["original"].shares)
    assert quick(original, data=data, never=never).where == ()
