"""Peak memory of fitting a method over that of the loaded model, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.progress import track

from benchmarks.methods_runs import Run, fitted, warm_up
from benchmarks.timing import peak_memory


def all_of(chosen: Mapping[str, Sequence[str]], folder: Path, *, concept: str) -> dict[str, float | None]:
    """Return megabytes per method, None where it failed; what is in the folder already is not run again."""
    folder.mkdir(parents=True, exist_ok=True)
    bare = _once(folder / "bare.json", None)
    found: dict[str, float | None] = {}
    for name, pairs in track(list(chosen.items()), description="memory"):
        run = Run(name, tuple(pairs), concept, 0)
        peak = _once(folder / f"{run.name}.json", run)
        found[name] = None if peak is None or bare is None else round(peak - bare, 1)
    return found


def _once(path: Path, run: Run | None) -> float | None:
    if not path.is_file():
        given = "None" if run is None else f"Run({run.method!r}, {run.settings!r}, {run.concept!r}, {run.seed})"
        code = f"from benchmarks.methods_memory import child; from benchmarks.methods_runs import Run; child({given})"
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
        )
        if done.returncode:
            print(f"memory of {path.stem}: {done.stderr.strip().splitlines()[-1]}", file=sys.stderr)
            return None
        path.write_text(done.stdout.splitlines()[-1] + "\n", encoding="utf-8")
    return float(json.loads(path.read_text(encoding="utf-8")))


def child(run: Run | None) -> None:
    """Load the model and ask it something; fit, if there is anything to fit; print the peak in megabytes."""
    warm_up()
    if run is not None:
        fitted(run)
    print(peak_memory() / 1e6)
