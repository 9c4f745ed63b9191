"""What a terminal shows of a report."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.vestige.report.sample import NAMES, sample_report
from vestige.commands.summary import print_summary


def rows(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, scored: bool) -> dict[str, list[str]]:
    monkeypatch.setenv("COLUMNS", "200")
    report = sample_report(hostile=False)
    print_summary(report if scored else replace(report, residual=()))
    lines = [line.strip("┃│ ") for line in capsys.readouterr().out.splitlines()]
    cells = [[cell.strip() for cell in line.replace("┃", "│").split("│")] for line in lines]
    return {row[0]: row[1:] for row in cells if len(row) > 1}


def test_the_score_and_its_probability_stand_beside_the_checks(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = rows(capsys, monkeypatch, scored=True)
    assert table["subject"] == ["says it", "lens", "probe", "hidden", "keeps", "score"]
    assert table[NAMES[1]][-1] == "0.62, above 99%"
    assert table[NAMES[-1]][-1] == "0.00, 40%?"
    assert table[NAMES[0]][-1] == "–"


def test_without_a_scale_there_is_no_column(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rows(capsys, monkeypatch, scored=False)["subject"] == ["says it", "lens", "probe", "hidden", "keeps"]
