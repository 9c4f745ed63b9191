"""`vestige organism`: the files say what `organism_data` says, and the commands it prints run as they stand."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from hooked import VestigeError, load_data
from vestige import AuditReport, organism
from vestige.cli import main
from vestige.commands import organism as command


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", list(words))
    with pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code


def test_the_files_hold_the_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(monkeypatch, "vestige", "organism", "--out", "here", "--json")
    made = json.loads(capsys.readouterr().out)
    files = dict(made["files"])
    data, wanted = load_data(files.pop("forget"), **files, template=made["template"]), organism.organism_data()
    for split in command.SPLITS:
        assert len(getattr(wanted, split)) >= 20
        assert getattr(data, split) == getattr(wanted, split)
    assert made["lexicon"] == organism.lexicon()
    assert made["models"] == {name: str(organism.organism_path(name)) for name in organism.CHECKPOINTS}


def test_the_commands_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    # A folder whose name a shell would take apart.
    run(monkeypatch, "vestige", "organism", "--out", "it's here")
    unlearn, audit = (shlex.split(line) for line in capsys.readouterr().out.splitlines())
    run(monkeypatch, *unlearn, "--set", "steps=1")
    run(monkeypatch, *audit, "--max-items", "3")
    report = AuditReport.load(tmp_path / "report")
    assert [subject.kind for subject in report.subjects] == ["original", "unlearned", "retrained", "never"]
    assert report.result("forget_probability", "original").control == pytest.approx(
        report.result("forget_probability", "never").estimate or 0
    )


def test_missing_checkpoints_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(organism, "_HOME", tmp_path)
    with pytest.raises(VestigeError, match="make organism"):
        command.run(out=tmp_path / "out", overwrite=False)
    assert not (tmp_path / "out").exists()
