"""Find the optional real data: the folder in VESTIGE_DATA, else `../shared/data` beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO_ROOT = Path(__file__).resolve().parents[1]


def data_path(*parts: str) -> Path:
    """Return a path in the data folder; the calling test is skipped, with the reason, where it does not exist."""
    folder = Path(os.environ.get("VESTIGE_DATA") or REPO_ROOT.parent / "shared" / "data")
    path = folder.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"optional data not found: {path} (set VESTIGE_DATA to the data folder)")
    return path
