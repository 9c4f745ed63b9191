"""The table of attacks says what the functions take."""

from __future__ import annotations

import inspect
import json
from importlib import import_module
from pathlib import Path
from typing import get_args

import pytest
from typer.testing import CliRunner

from vestige.attacks.catalogue import ATTACKS, Access, Suite
from vestige.cli import app

HERE = Path(__file__).parents[3] / "vestige" / "attacks"


@pytest.mark.parametrize("name", ATTACKS)
def test_a_row_can_be_called(name: str) -> None:
    row = ATTACKS[name]
    function = getattr(import_module(row.home), name.partition(":")[0])
    inspect.signature(function).bind(None, None, batch_size=1, seed=0, **row.settings)
    assert row.access in get_args(Access)
    assert row.suite in get_args(Suite)
    assert row.passes >= 1
    assert row.says
    assert row.paper
    if ":" in name:
        assert row.settings, "a variant differs from its function's defaults"


def test_an_attack_that_is_shown_the_answers_says_so() -> None:
    for name, row in ATTACKS.items():
        if row.uses_target and "learn_from" not in row.settings and "on" not in row.settings:
            said = inspect.getdoc(getattr(import_module(row.home), name.partition(":")[0])) or ""
            assert "answer" in said.split("\n\n")[0].lower() or "target" in said.split("\n\n")[0].lower(), name


def test_every_attack_in_the_folder_has_a_row() -> None:
    listed = {row.home for row in ATTACKS.values()}
    for path in HERE.glob("*/*.py"):
        module = import_module(f"vestige.attacks.{path.parent.name}.{path.stem}")
        own = getattr(module, path.stem, None)
        if inspect.isfunction(own) and list(inspect.signature(own).parameters)[:2] == ["target", "data"]:
            assert module.__name__ in listed, f"{path.stem} is in no suite"


def test_the_command_lists_them() -> None:
    shown = CliRunner().invoke(app, ["attacks"]).output
    assert all(any(line.startswith(f"{name} ") for line in shown.splitlines()) for name in ATTACKS)
    rows = json.loads(CliRunner().invoke(app, ["attacks", "--json"]).output)
    assert [row["name"] for row in rows] == list(ATTACKS)
    assert {"access", "uses_target", "suite", "says", "paper"} <= set(rows[0])
