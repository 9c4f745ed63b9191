"""The Triton kernels on a CPU. Triton reads TRITON_INTERPRET while it is imported, hence a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")


def test_triton_kernels_equal_their_definitions() -> None:
    parity = str(Path(__file__).with_name("triton_parity.py"))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", parity]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        command, cwd=Path(__file__).parents[3], env=environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-5000:]
    assert " passed" in done.stdout
