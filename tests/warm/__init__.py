"""Processes that begin with the imports done: `python -c` and `python -m` of a server that imported once and forks.

Importing PyTorch, Transformers and their kin takes ten seconds, which every process of the suite would spend. A warm
process has them in memory and nothing else: its `__main__`, folder, environment and streams are its own, and no module
of this project is loaded. The seed of hashes and the interpreter's own flags are the server's. What an import does or
costs is tested in processes of `sys.executable`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Where the server of a test session listens.
SOCKET = "VESTIGE_WARM_SOCKET"
_HERE = Path(__file__).parent


def python() -> list[str]:
    """Return the words that stand for `sys.executable` in front of `-c` or `-m`."""
    return [sys.executable, "-I", "-S", str(_HERE / "client.py"), os.environ[SOCKET]]


@contextmanager
def server() -> Iterator[None]:
    """Run a server; it imports when the first process is asked for, and ends with whoever started it."""
    with tempfile.TemporaryDirectory(prefix="warm-") as folder:
        path = str(Path(folder) / "socket")
        words = [sys.executable, str(_HERE / "serve.py"), path]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
            assert running.stdin is not None
            assert running.stdout is not None
            assert running.stdout.readline() == b"listening\n"
            os.environ[SOCKET] = path
            try:
                yield
            finally:
                del os.environ[SOCKET]
                running.stdin.close()
