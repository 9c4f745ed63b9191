"""Alternating runs of several functions, so that all of them see the same machine; and what machine that was."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from statistics import median
from typing import Any

import torch

Times = dict[str, list[float]]


@dataclass(frozen=True)
class Prepared:
    """A run that needs something made for it each time, off the clock.

    Args:
        prepare: Makes what is to be run.
    """

    prepare: Callable[[], Callable[[], object]]


def alternating(runs: Mapping[str, Callable[[], object] | Prepared], *, rounds: int, note: str = "") -> Times:
    """Run every function once per round, after one round that does not count; return seconds."""
    times: Times = {name: [] for name in runs}
    for number in range(rounds + 1):
        for name, run in runs.items():
            ready = run.prepare() if isinstance(run, Prepared) else run
            started = time.perf_counter()
            ready()
            took = time.perf_counter() - started
            if number:
                times[name].append(took)
        print(f"{note}: round {number} of {rounds}", file=sys.stderr, flush=True)
    return times


def ratio(times: Times, one: str, other: str) -> float:
    """Return the median over rounds of how many times faster `one` was than `other`."""
    return median(b / a for a, b in zip(times[one], times[other], strict=True))


def peak_memory() -> int:
    """Return the largest resident memory of this program so far, in bytes.

    From the kernel's own mark, since `ru_maxrss` is inherited from the process that started this one.
    """
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith("VmHWM:"))


def machine() -> dict[str, Any]:
    """Return what the numbers were measured on."""
    packages = ("torch", "transformers", "transformer-lens", "sae-lens", "nnsight", "numba", "numpy")
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except ImportError:
            found[name] = "not installed"
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "commit": commit(),
        "versions": found,
    }


def commit() -> str:
    """Return the commit of the working copy, with a plus where files differ from it."""
    found = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=False)
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
