"""Every unlearning method on the organism: settings chosen on two concepts, measured on four others with three seeds.

Writes docs/results/methods.md, methods.json and the picture of what is forgotten against what is kept. A run that is in
the work folder already is not run again, so the benchmark resumes where it stopped.

Run with: .venv/bin/python -m benchmarks.methods
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from rich.progress import track

from benchmarks import methods_memory, methods_page, methods_runs
from benchmarks.methods_grid import GRID
from benchmarks.methods_runs import Run, Settings
from benchmarks.timing import commit, machine
from vestige import organism
from vestige.catalogue import METHODS

SEEDS = (0, 1, 2)
# Methods that are audited together, so that the original is read once for all of them.
TOGETHER = 8
DOCS = Path(__file__).parents[1] / "docs"


def main() -> None:
    """Search, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("build/methods"), help="finished runs; kept between calls")
    parser.add_argument("--out", type=Path, default=DOCS)
    parser.add_argument("--only", nargs="*", default=list(GRID), help="these methods, the others as they were measured")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--address", default=None, help="of a Ray cluster; one is started here when not given")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.only if name not in GRID]
    if unknown:
        parser.error(f"no method {unknown[0]!r}; there are {', '.join(GRID)}")
    folder = Path(arguments.work)
    runs = _ray(arguments.address) if arguments.engine == "ray" else _local(arguments.workers)
    # The code that workers load is that of now, whatever happens to the working copy meanwhile.
    at = commit()
    tried = search(arguments.only, folder / "search", runs, at)
    chosen = best(tried)
    measure({name: chosen[name] for name in arguments.only if name in chosen}, folder / "runs", runs, at)
    memory = methods_memory.all_of(chosen, folder / "memory", concept=evaluated()[0])
    found = {
        "searched_on": developed(),
        "concepts": evaluated(),
        "seeds": list(SEEDS),
        "drawn": [name for name in chosen if methods_runs.is_seeded(name)],
        "search": tried,
        "chosen": chosen,
        "runs": collected(folder / "runs", chosen),
        "memory": memory,
        "workers": arguments.workers,
        "engine": arguments.engine,
        "machine": machine(),
    }
    methods_page.write(found, arguments.out)


def developed() -> list[str]:
    """The concepts on which settings are chosen."""
    return _names()[-2:]


def evaluated() -> list[str]:
    """The concepts on which methods are measured: the one that two checkpoints never saw, and three more."""
    default = organism.organism_data().concepts[0]
    return [default, *[name for name in _names() if name != default][:3]]


def _names() -> list[str]:
    return [concept.name for concept in organism.world().concepts]


Engine = Callable[[Callable[[Any], Any], Sequence[Any], str], Iterator[tuple[Any, Any]]]


def search(names: Iterable[str], folder: Path, engine: Engine, at: str) -> dict[str, Any]:
    """Try every setting of the grid on the concepts for that; return all of what was tried before and now."""
    wanted = [Run(name, pairs, concept, 0) for name in names for pairs in GRID[name] for concept in developed()]
    for run, record in engine(methods_runs.scored, _missing(wanted, folder), "choosing settings"):
        _keep(record, folder, run.name, at)
    tried: dict[str, Any] = {}
    for record in _records(folder):
        settings = tuple(record["run"]["settings"])
        if settings in GRID.get(record["run"]["method"], ()):
            tried.setdefault(record["run"]["method"], []).append(record)
    return tried


def best(tried: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, list[str]]:
    """Return the settings with the best mean score for each method; of equals the first of the grid.

    Only settings that worked on every concept are compared. A method without any is left out.
    """
    chosen = {}
    for name, records in tried.items():
        scores: dict[Settings, dict[str, float | None]] = {pairs: {} for pairs in GRID[name]}
        for record in records:
            scores[tuple(record["run"]["settings"])][record["run"]["concept"]] = (
                None if record["error"] else record["score"]
            )
        means = {}
        for pairs, by_concept in scores.items():
            values = [by_concept.get(concept) for concept in developed()]
            if None not in values:
                means[pairs] = float(np.mean(np.array(values, dtype=float)))
        if means:
            chosen[name] = list(max(means, key=means.__getitem__))
    return chosen


def measure(chosen: Mapping[str, Sequence[str]], folder: Path, engine: Engine, at: str) -> None:
    """Run every method with its settings on every concept with every seed; once, where a method draws nothing."""
    groups = []
    for seed in SEEDS:
        names = [name for name in chosen if seed == SEEDS[0] or methods_runs.is_seeded(name)]
        for concept in evaluated():
            here = _missing([Run(name, tuple(chosen[name]), concept, seed) for name in names], folder)
            groups += [tuple(here[i : i + TOGETHER]) for i in range(0, len(here), TOGETHER)]
    for _, records in engine(methods_runs.measured, groups, "measuring"):
        for record in records:
            described = record["run"]
            run = Run(described["method"], tuple(described["settings"]), described["concept"], described["seed"])
            _keep(record, folder, run.name, at)


def collected(folder: Path, chosen: Mapping[str, Sequence[str]]) -> list[dict[str, Any]]:
    """Return the records of the chosen settings and of the references."""
    return [
        record
        for record in _records(folder)
        if record["run"]["method"] not in METHODS
        or list(chosen.get(record["run"]["method"], ["?"])) == record["run"]["settings"]
    ]


def _missing(runs: Sequence[Run], folder: Path) -> list[Run]:
    """Return the runs that are not in a folder; one that failed is tried again."""
    there = {path.stem for path in folder.glob("*.json") if not json.loads(path.read_text(encoding="utf-8"))["error"]}
    return [run for run in runs if run.name not in there]


def _records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.json"))]


def _keep(record: Mapping[str, Any], folder: Path, name: str, at: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    scratch = folder / f".{name}"
    scratch.write_text(json.dumps({**record, "commit": at}, indent=1) + "\n", encoding="utf-8")
    os.replace(scratch, folder / f"{name}.json")


def _local(workers: int) -> Engine:
    """Run in processes of this machine."""

    def engine(function: Callable[[Any], Any], tasks: Sequence[Any], label: str) -> Iterator[tuple[Any, Any]]:
        if not tasks:
            return
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            futures = {pool.submit(function, task): task for task in tasks}
            for future in track(as_completed(futures), description=label, total=len(futures)):
                yield futures[future], future.result()

    return engine


def _ray(address: str | None) -> Engine:
    """Run as Ray tasks, one core each."""
    import ray

    ray.init(address=address, log_to_driver=False)

    def engine(function: Callable[[Any], Any], tasks: Sequence[Any], label: str) -> Iterator[tuple[Any, Any]]:
        remote = ray.remote(num_cpus=1, max_retries=2)(function)
        waiting = {remote.remote(task): task for task in tasks}
        for _ in track(range(len(tasks)), description=label):
            (done,), _rest = ray.wait(list(waiting), num_returns=1)
            yield waiting.pop(done), ray.get(done)

    return engine


if __name__ == "__main__":
    main()
