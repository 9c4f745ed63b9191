"""The demo: the whole main job on the built-in model, with the shapes that it is there to show."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from hooked import VestigeError
from tests.vestige.test_audit import CHECKS
from vestige import AuditReport, organism
from vestige.cli import main
from vestige.commands.demo import demo
from vestige.report.answer import answer
from vestige.report.storage import from_json
from vestige.stands_out import by_chance

SUBJECTS = [
    "original",
    "neuron_adjust",
    "key_space_detection",
    "ablate_vectors",
    "gradient_ascent",
    "npo",
    "retain",
    "never",
]


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """The demo runs on one thread and leaves the process so."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, one_thread: None) -> Path:
    """The folder that `vestige demo` wrote."""
    out = tmp_path_factory.mktemp("demo") / "report"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["vestige", "demo", "--out", str(out), "--json"])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    return out


@pytest.fixture(
    scope="module", params=[0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def report(request: pytest.FixtureRequest, folder: Path) -> AuditReport:
    """The demo of three seeds, the first through the command line; the others are slow because each is a demo."""
    if request.param == 0:
        return from_json(json.loads((folder / "report.json").read_text()))
    return demo(seed=request.param)


def value(report: AuditReport, check: str, subject: str) -> float:
    """The estimate of a check that has to have one."""
    found = report.result(check, subject).estimate
    assert found is not None, report.result(check, subject).note
    return found


def test_it_writes_the_report(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"report.html", "report.json", "figures"}
    assert any((folder / "figures").glob("*.png"))
    page = (folder / "report.html").read_text()
    assert all(name in page for name in SUBJECTS)
    assert "Chance gives such vectors too" in page
    assert json.loads((folder / "report.json").read_text())["provenance"]["command"].startswith("vestige ")


def test_report_json_has_the_promised_form(folder: Path) -> None:
    document = json.loads((folder / "report.json").read_text())
    assert set(document) >= {"provenance", "subjects", "results"}
    assert [s["name"] for s in document["subjects"]] == SUBJECTS
    assert all(set(s) >= {"name", "kind", "intent"} for s in document["subjects"])
    keys = {"check", "subject", "estimate", "low", "high", "n", "floor", "control"}
    assert all(set(r) >= keys for r in document["results"])
    assert {(r["check"], r["subject"]) for r in document["results"]} == {(c, s) for c in CHECKS for s in SUBJECTS}


def test_training_methods_stop_saying_it_and_leave_the_vectors_where_they_are(report: AuditReport) -> None:
    before = value(report, "forget_probability", "original")
    for name in ("gradient_ascent", "npo"):
        assert value(report, "forget_probability", name) <= 0.1 * before
        assert value(report, "concept_vector_cosine", name) > 0.95
    assert report.verdicts["npo"].startswith("Not settled: by what it says")
    # On the organism chance gives such vectors too: no verdict rests on the vectors, and the report says so.
    assert by_chance(report.concept_vectors)
    assert "vectors" not in report.verdicts["npo"]
    (weights,) = [said for said in answer(report) if said.startswith("In the weights")]
    assert weights.endswith("but chance gives such vectors too, so that says little.")


def test_zeroed_vectors_keep_none_of_their_tokens(report: AuditReport) -> None:
    assert value(report, "concept_vector_jaccard", "ablate_vectors") < 0.1
    assert value(report, "concept_vector_l2", "ablate_vectors") == pytest.approx(1)


def test_suppression_leaves_every_weight_and_hides(report: AuditReport) -> None:
    hashes = report.provenance["weights_sha256"]
    for name in ("neuron_adjust", "key_space_detection"):
        assert hashes[name] == hashes["original"]
        assert value(report, "concept_vector_cosine", name) == pytest.approx(1)
        assert value(report, "lens_leak", name) > value(report, "lens_leak", "never") + 0.3
    assert value(report, "suppression_index", "key_space_detection") > 0.9
    # On a model this small the published share of 3 % of the neurons carries only part of a concept.
    assert value(report, "suppression_index", "neuron_adjust") > 0.6
    for name in ("ablate_vectors", "gradient_ascent", "npo"):
        assert hashes[name] != hashes["original"]
        assert value(report, "suppression_index", name) == 0.0


def test_forget_quality_tells_retraining_from_ascent(report: AuditReport) -> None:
    assert value(report, "forget_quality", "retain") > 0.05
    assert value(report, "forget_quality", "gradient_ascent") < 0.01


def test_the_references_never_knew_it_and_kept_the_rest(report: AuditReport) -> None:
    for name in ("retain", "never"):
        assert value(report, "forget_probability", name) < 0.05
        assert value(report, "exact_memorization", name) < 0.2
        assert value(report, "retain_probability", name) > 0.85
        assert value(report, "model_utility", name) > 0.9
    assert value(report, "forget_probability", "original") > 0.85


def test_the_lens_and_the_probe_see_what_the_original_knows(report: AuditReport) -> None:
    for check in ("lens_leak", "probe_leak"):
        known, never = report.result(check, "original"), value(report, check, "never")
        assert known.low is not None
        assert known.low > never + 0.1
        assert known.per_layer is not None
        assert known.per_layer_control is not None
    rising = report.result("lens_leak", "original").per_layer or ()
    assert rising[0] < rising[1] < rising[2]
    note = report.result("probe_leak", "original").note
    assert 0.4 < float(note.split("with shuffled answers ")[1][:4]) < 0.6


def test_every_number_comes_with_its_control(report: AuditReport) -> None:
    for check in CHECKS:
        assert report.result(check, "npo").control is not None


def test_missing_checkpoints_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(organism, "_HOME", tmp_path)
    with pytest.raises(VestigeError, match="make organism"):
        demo()
