"""What the README, the guides and the notebooks tell people to type runs as it stands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from tests import warm

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def blocks(page: str) -> list[str]:
    """Return the Python blocks of a page."""
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


def run(code: str, folder: Path, python: Sequence[str]) -> None:
    """Run code as a user would who pasted it into a file in an empty folder."""
    done = subprocess.run(
        [*python, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(900)
def test_the_readme_examples_run_in_an_empty_folder(tmp_path: Path) -> None:
    found = blocks("README.md")
    assert len(found) == 5
    run("\n".join(found), tmp_path, [sys.executable])
    assert (tmp_path / "my-report" / "report.html").is_file()
    assert (tmp_path / "acts" / "manifest.json").is_file()


@pytest.mark.timeout(900)
def test_the_guide_to_harvests_runs_in_an_empty_folder(tmp_path: Path) -> None:
    found = blocks("docs/harvest.md")
    assert len(found) >= 6
    run("\n".join(found), tmp_path, warm.python())
    assert (tmp_path / "pair" / "retain" / "manifest.json").is_file()


@pytest.mark.timeout(900)
def test_the_guide_to_features_runs_in_an_empty_folder(tmp_path: Path) -> None:
    found = blocks("docs/features.md")
    assert len(found) == 6
    run("\n".join(found), tmp_path, warm.python())
    assert (tmp_path / "my-sae" / "sae_weights.safetensors").is_file()


@pytest.mark.timeout(900)
def test_the_guide_to_unlearning_runs_in_an_empty_folder(tmp_path: Path) -> None:
    found = blocks("docs/unlearning.md")
    assert len(found) == 8
    run("\n".join(found), tmp_path, warm.python())
    assert (tmp_path / "npo" / "intervention.json").is_file()
    assert (tmp_path / "npo-model" / "config.json").is_file()


@pytest.mark.timeout(900)
def test_the_guide_to_attacks_runs_in_an_empty_folder(tmp_path: Path) -> None:
    found = blocks("docs/attacks.md")
    assert len(found) == 1
    run(found[0], tmp_path, warm.python())
    assert (tmp_path / "attacked" / "report.html").is_file()


def kernel(folder: Path, python: Sequence[str]) -> str:
    """Write down, for Jupyter to find below a folder, a kernel that such a Python runs; return its name."""
    argv = [*python, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (folder / "kernels" / "chosen").mkdir(parents=True)
    spec = {"argv": argv, "display_name": "Python", "language": "python"}
    (folder / "kernels" / "chosen" / "kernel.json").write_text(json.dumps(spec))
    return "chosen"


@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs_and_is_stored_without_outputs(
    path: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    notebook = nbformat.read(path, as_version=4)
    assert all(not cell.get("outputs") for cell in notebook.cells)
    jupyter = tmp_path_factory.mktemp("jupyter")
    monkeypatch.setenv("JUPYTER_PATH", str(jupyter))
    client = NotebookClient(
        notebook,
        kernel_name=kernel(jupyter, [sys.executable] if path == NOTEBOOKS[0] else warm.python()),
        timeout=800,
        startup_timeout=800,
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()
    assert any(cell.get("outputs") for cell in notebook.cells)
