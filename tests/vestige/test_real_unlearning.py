"""From the files of TOFU and a small real model to a report, through the command line alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from hooked import HookedModel, Intervention, Spec, UnlearnData, load_data
from interventions import cross_entropy, forget_nll, train
from probes import answer_probability
from tests.data_folder import data_path
from vestige.report import read_json

FORGET, RETAIN = 4, 8
# Long answers cost context and time; the model has 512 positions and a vocabulary of 512 pieces.
LONGEST = 90


def rows(path: Path, n: int) -> list[str]:
    """The first short rows of a file of TOFU, as they stand."""
    lines = [
        line for line in path.read_text(encoding="utf-8").splitlines() if len(json.loads(line)["answer"]) < LONGEST
    ]
    return lines[:n]


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The real model after it was taught some of TOFU's authors, beside their files."""
    folder = tmp_path_factory.mktemp("tofu")
    original = data_path("models", "stories260K-hf")
    for name, source, n in (("forget", "forget01", FORGET), ("retain", "retain_perturbed", RETAIN)):
        text = "\n".join(rows(data_path("tofu", f"{source}.jsonl"), n)) + "\n"
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    model = HookedModel.from_pretrained(str(original), dtype="float32")
    data = load_data(folder / "forget.jsonl", retain=folder / "retain.jsonl")
    assert len(data.forget) == FORGET
    assert len(data.retain) == RETAIN
    lesson = UnlearnData(data.forget + data.retain)
    learnt = train(model, lesson, lambda m, b: cross_entropy(forget_nll(m, b)), lr=5e-3, epochs=40, progress=False)
    teaching = Intervention(Spec("teach", "attack"), weights=learnt.patch)
    teaching.bake(model, folder / "taught")
    return folder


def test_taught_authors_are_forgotten_from_the_command_line(
    taught: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from vestige.cli import app

    monkeypatch.chdir(taught)
    original = data_path("models", "stories260K-hf")
    data = load_data("forget.jsonl", retain="retain.jsonl")
    knowing, innocent = (HookedModel.from_pretrained(str(p), dtype="float32") for p in ("taught", original))
    with torch.no_grad():
        known, unknown = (answer_probability(m, data.forget).mean() for m in (knowing, innocent))
        kept = answer_probability(knowing, data.retain).mean()
    # The signal is there before its absence is asked for, and the model that was not taught is the control.
    assert known > 0.8
    assert kept > 0.8
    assert unknown < 0.3
    files = ("--forget", "forget.jsonl", "--retain", "retain.jsonl")
    settings = ("--set", "lr=1e-3", "--set", "epochs=20", "--set", "beta=0.1")
    app(
        ["unlearn", "--model", "taught", "--method", "npo", *files, *settings, "--out", "npo", "--json"],
        standalone_mode=False,
    )
    assert json.loads(capsys.readouterr().out)["acts_through"] == ["weights"]
    app(
        [
            "audit",
            "--original",
            "taught",
            "--unlearned",
            "npo",
            "--never",
            str(original),
            *files,
            "--out",
            "report",
            "--json",
        ],
        standalone_mode=False,
    )
    report = read_json(taught / "report" / "report.json")
    forget = {s: report.result("forget_probability", s).estimate or 0.0 for s in ("original", "npo", "never")}
    retain = {s: report.result("retain_probability", s).estimate or 0.0 for s in ("original", "npo", "never")}
    assert forget["original"] > 0.8
    assert forget["npo"] < 0.5 * forget["original"]
    assert retain["npo"] > 0.8 * retain["original"]
    assert retain["never"] < 0.5 * retain["original"]
