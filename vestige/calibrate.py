"""Calibrate the audit: build a pool of models whose knowledge is known, audit all of them, and say what each instrument
and the residual knowledge score are worth on worlds that nothing was fitted on."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch

from hooked import VestigeError
from hooked.harvest.ray_connection import RayOptions, connected, imported
from vestige.attacks.catalogue import chosen
from vestige.calibration.audits import audited, record_path
from vestige.calibration.bases import SPARES, base
from vestige.calibration.evaluate import Calibration, Claims, evaluated
from vestige.progress import steps

# Worlds to fit on and to evaluate on.
FIT, HELD = (1, 2), (5, 6)
ENGINES = ("local", "ray")
# Core minutes: training an organism, and a task with and without the models that are tampered with. Tasks were measured
# on four fifths of the models, and scaled.
MINUTES = {"base": 7, "tampered": 21, "plain": 9}


def calibrate(
    work: Path,
    *,
    fit: Sequence[int] = FIT,
    held: Sequence[int] = HELD,
    concepts: int = 2,
    suite: str = "quick",
    engine: str = "local",
    workers: int = 1,
    address: str | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Calibration:
    """Fit the residual knowledge score on some worlds and evaluate it, and every instrument, on others.

    What is finished stays in `work`, and the same call goes on from there.

    Args:
        work: Folder for organisms and records; with Ray, one that all machines share.
        fit: Seeds of the worlds to fit on.
        held: Seeds of the worlds to evaluate on; none of those to fit on.
        concepts: How many concepts of each world are asked about, at most 10.
        suite: Attacks of the audits.
        engine: `local`, processes of this machine, or `ray`, tasks of a cluster.
        workers: Processes.
        address: Of a running cluster; only for Ray.
        seed: Of the bootstrap.
        progress: Show a progress bar.

    Raises:
        VestigeError: A setting is out of range, or Ray is not there.
    """
    check_settings(
        fit, held, concepts=concepts, suite=suite, engine=engine, workers=workers, address=address, work=work
    )
    work.mkdir(parents=True, exist_ok=True)
    run = partial(_on_ray, workers, address) if engine == "ray" else partial(_here, workers)
    read = partial(audited, folder=work, suite=suite)
    wanted = [
        (world, which, tamper)
        for worlds, tamper in ((held, True), (fit, False))
        for world in worlds
        for which in range(concepts)
    ]
    there = {task for task in wanted if record_path(*task[:2], work, suite=suite, tamper=task[2]).is_file()}
    for world, which, tamper in there:
        # Records of another pool are refused before anything is made beside them.
        read(world, which, tamper=tamper)
    # Those that take longest are first.
    tasks = [task for task in wanted if task not in there]
    bases: list[Job] = [partial(_base, world, work) for world in dict.fromkeys(world for world, _, _ in tasks)]
    pools: list[Job] = [partial(_task, world, which, work, suite, tamper) for world, which, tamper in tasks]
    for what, jobs in (("training organisms", bases), ("auditing pools", pools)):
        done = run(jobs)
        for _ in steps(jobs, what, show=progress, label=lambda job: ""):
            next(done)
    return evaluated(
        [read(seed, which, tamper=False) for seed in fit for which in range(concepts)],
        [read(seed, which, tamper=True) for seed in held for which in range(concepts)],
        suite=suite,
        seed=seed,
    )


def check_settings(
    fit: Sequence[int],
    held: Sequence[int],
    *,
    concepts: int,
    suite: str,
    engine: str,
    workers: int,
    work: Path,
    address: str | None = None,
    mark: str = "",
) -> None:
    """Refuse settings that `calibrate` would refuse, before anything is said of what they cost.

    Args:
        fit: As for `calibrate`, like all that follow.
        held: Likewise.
        concepts: Likewise.
        suite: Likewise.
        engine: Likewise.
        workers: Likewise.
        work: Likewise.
        address: Likewise.
        mark: Stands before the name of a setting in messages: `--` for options.

    Raises:
        VestigeError: One is out of range, or the work folder is a file.
    """
    shared = sorted(set(fit) & set(held))
    if shared:
        raise VestigeError(f"{mark}fit and {mark}held are seeds of worlds of their own: world {shared[0]} is in both")
    if len(set(fit)) < max(len(fit), 2):
        raise VestigeError(
            f"{mark}fit needs two worlds or more, since one is left out while the penalty is chosen, and each world "
            f"once; got {tuple(fit)}"
        )
    if len(set(held)) < max(len(held), 1):
        raise VestigeError(f"{mark}held needs a world, and each world once; got {tuple(held)}")
    for name, value, most in (("concepts", concepts, SPARES), ("workers", workers, None)):
        if value < 1 or (most is not None and value > most):
            raise VestigeError(f"{mark}{name} is {'at least 1' if most is None else f'1 to {most}'}, got {value}")
    if engine not in ENGINES:
        raise VestigeError(f"{mark}engine is one of {', '.join(ENGINES)}, got {engine!r}")
    if address is not None and engine != "ray":
        raise VestigeError(f"{mark}address is of a Ray cluster; give {mark}engine ray as well, or leave it out")
    chosen(suite)
    if work.exists() and not work.is_dir():
        raise VestigeError(f"{mark}work: '{work}' is a file; give a folder")


def minutes(*, fit: int, held: int, concepts: int) -> int:
    """Return about how many core minutes a calibration takes from nothing."""
    worlds = (fit + held) * MINUTES["base"]
    return worlds + concepts * (held * MINUTES["tampered"] + fit * MINUTES["plain"])


Job = Callable[[], None]


def _base(world: int, work: Path) -> None:
    torch.set_num_threads(1)
    base(world, work)


def _task(world: int, which: int, work: Path, suite: str, tamper: bool) -> None:
    torch.set_num_threads(1)
    audited(world, which, work, suite=suite, tamper=tamper)


def _here(workers: int, jobs: Sequence[Job]) -> Iterator[None]:
    # Ctrl-C goes to every process of a terminal; this one hears it for all.
    others, deaf = active_children(), (signal.SIGINT, signal.SIG_IGN)
    with ProcessPoolExecutor(
        workers, mp_context=get_context("spawn"), initializer=signal.signal, initargs=deaf
    ) as pool:
        waiting = [pool.submit(job) for job in jobs]
        try:
            for done in as_completed(waiting):
                yield done.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            # A task takes minutes, and what it would still write is made again by the next call.
            mine = [child for child in active_children() if child not in others]
            for worker in mine:
                worker.terminate()
            for worker in mine:
                # The pool's own thread may wait for it too; until that has noted its end, a join returns at once.
                while worker.is_alive():
                    worker.join(0.1)
            raise


def _on_ray(workers: int, address: str | None, jobs: Sequence[Job]) -> Iterator[None]:
    ray: Any = imported()
    with connected(ray, RayOptions(workers=workers, address=address)):
        remote = ray.remote(num_cpus=1, max_retries=2)(lambda job: job())
        waiting = [remote.remote(job) for job in jobs]
        while waiting:
            (done,), waiting = ray.wait(waiting)
            yield ray.get(done)


def to_json(found: Calibration) -> dict[str, Any]:
    """Return a calibration as JSON values."""
    return {
        "fitted_on": list(found.fitted_on),
        "held_out": list(found.held_out),
        "pool": dict(found.pool),
        "instruments": [
            {
                "name": worth.name,
                "faithfulness_auc": None if worth.faithfulness is None else worth.faithfulness.auc,
                "interval": None if worth.faithfulness is None else [worth.faithfulness.low, worth.faithfulness.high],
                "relearning": None if worth.robustness is None else worth.robustness.relearning,
                "quantisation": None if worth.robustness is None else worth.robustness.quantisation,
                "robustness": None if worth.robustness is None else worth.robustness.both,
                "n_robustness": 0 if worth.robustness is None else worth.robustness.n,
                "robustness_where_forgotten": None if worth.forgotten is None else worth.forgotten.both,
                "n_forgotten": 0 if worth.forgotten is None else worth.forgotten.n,
                "relearning_of_never": None if worth.control is None else worth.control.relearning,
                "n_never": 0 if worth.control is None else worth.control.n,
                "n": worth.n,
            }
            for worth in found.worths
        ],
        "claims": {
            name: {**_rates(claims), "stated": [list(row) for row in claims.stated]}
            for name, claims in found.claims.items()
        },
        "lacking": {
            what: {name: _rates(claims) for name, claims in by_score.items()}
            for what, by_score in found.lacking.items()
        },
        "forgetting": [
            {"name": one.name, "scores": dict(one.scores), "probabilities": dict(one.probabilities)}
            for one in found.forgetting
        ],
        "scores": {name: score.to_json() for name, score in found.scores.items()},
    }


def _rates(claims: Claims) -> dict[str, Any]:
    names = ("false_alarms", "missed", "missed_hidden", "abstained")
    rates = {name: getattr(claims, name) for name in names}
    found = {name: {"hits": r.hits, "n": r.n, "interval": [r.low, r.high]} for name, r in rates.items()}
    return {**found, "calibration_error": claims.error}


def save(found: Calibration, folder: Path, *, about: dict[str, Any]) -> None:
    """Write `calibration.json`, the page `calibration.md` and the picture `calibration.png`.

    Args:
        found: From `calibrate`.
        folder: Exists.
        about: JSON values on where the numbers come from: command, commit, versions.
    """
    from vestige.calibration.page import draw, page

    text = json.dumps({**about, **to_json(found)}, indent=1) + "\n"
    (folder / "calibration.json").write_text(text, encoding="utf-8")
    (folder / "calibration.md").write_text(page(found, about), encoding="utf-8")
    draw(found, folder / "calibration.png")
