"""Attacks as tasks of a Ray cluster: every subject is opened here once and sent to whoever attacks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hooked import HookedModel, UnlearnData, VestigeError, View
from hooked.fingerprint import weights_sha256
from hooked.harvest.ray_connection import RayOptions, connected, imported
from hooked.harvest.shipping import ShippedModel, ship
from vestige.attacks.attacked import Notes, Target
from vestige.attacks.catalogue import Attack
from vestige.attacks.run import Outcome, attempted
from vestige.progress import steps
from vestige.result import Kind, SubjectInfo
from vestige.subjects import Source, blamed, opened


@dataclass(frozen=True, eq=False)
class Shared:
    """What all tasks have in common.

    Args:
        data: Prepared items.
        notes: Of the original model.
        batch_size: Rows per forward pass.
        seed: Of everything that draws.
        threads: Threads of PyTorch; sums in another order differ in their last bits.
        precision: PyTorch's precision of float32 products.
    """

    data: UnlearnData
    notes: Notes
    batch_size: int
    seed: int
    threads: int
    precision: str

    def run(self, shipped: ShippedModel, name: str, kind: Kind, attack: Attack | None) -> Outcome:
        """Attack a subject as this process would; `plain` without an attack."""
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.precision)
        if shipped.device == "cuda" and not torch.cuda.is_available():
            raise VestigeError("a Ray task finds no CUDA device; the model is on one, so give num_gpus")
        model = shipped.unpack()
        target = Target(name, kind, model, model.raw if isinstance(model, View) else model, self.notes)
        return attempted(target, self.data, attack, batch_size=self.batch_size, seed=self.seed)


def attacked_on_ray(
    original: HookedModel,
    sources: Sequence[tuple[SubjectInfo, Source]],
    attacks: Sequence[Attack],
    options: RayOptions,
    *,
    data: UnlearnData,
    notes: Notes,
    batch_size: int,
    seed: int,
    progress: bool,
) -> tuple[dict[str, Mapping[str, Outcome]], dict[str, str | None]]:
    """Run every attack on every subject, each as one task.

    Subjects are opened here, one at a time and when workers wait for work, and are sent as they are in memory. Workers
    need no file system in common.

    Args:
        original: The model before unlearning.
        sources: The subjects and what they come from.
        attacks: Rows of the table.
        options: Of the engine; as many tasks as `workers` run at a time.
        data: Prepared items.
        notes: Of the original model.
        batch_size: Rows per forward pass.
        seed: Of everything that draws.
        progress: Show a progress bar.

    Returns:
        Subject name to what `run_attacks` returns, and subject name to the hash of its bare weights.

    Raises:
        VestigeError: Ray is not there or gave up a task, or a subject cannot be opened or holds something that cannot
            be sent.
    """
    ray: Any = imported()
    found: dict[str, dict[str, Outcome]] = {}
    hashes: dict[str, str | None] = {}
    with connected(ray, options):
        threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
        shared = ray.put(Shared(data, notes, batch_size, seed, threads, precision))
        task = ray.remote(num_cpus=options.num_cpus, num_gpus=options.num_gpus, max_retries=2)(_run)
        running: dict[Any, tuple[SubjectInfo, Source, str]] = {}

        def collect(*, until: int) -> None:
            while len(running) > until:
                (reference,), _ = ray.wait(list(running), num_returns=1)
                info, source, attack = running.pop(reference)
                outcome = _ended(ray, reference, f"attack '{attack}' on subject '{info.name}'")
                with blamed(info, source, original=original):
                    if isinstance(outcome, Exception):
                        raise outcome
                found[info.name][attack] = outcome

        try:
            for info, source in steps(sources, "attacking", show=progress, label=lambda pair: pair[0].name):
                with blamed(info, source, original=original), opened(info, source, original=original) as subject:
                    sent = ray.put(ship(subject.model))
                    hashes[info.name] = weights_sha256(subject.raw)
                # Tasks end in any order.
                found[info.name] = dict.fromkeys(("plain", *(attack.name for attack in attacks)), "")
                for attack in (None, *attacks):
                    collect(until=options.workers - 1)
                    name = "plain" if attack is None else attack.name
                    running[task.remote(shared, sent, info.name, info.kind, attack)] = (info, source, name)
            collect(until=0)
        finally:
            # A cluster that others use too goes on without this call.
            for reference in running:
                ray.cancel(reference)
    return dict(found), hashes


def _ended(ray: Any, reference: Any, what: str) -> Outcome | Exception:
    try:
        found: Outcome | Exception = ray.get(reference)
    except ray.exceptions.RayTaskError:
        # Not a death but a bug, whose traceback is wanted.
        raise
    except ray.exceptions.RayError as error:
        raise VestigeError(
            f"Ray gave up {what} because its workers keep dying ({str(error).splitlines()[0]}); where memory ran out, "
            "give fewer workers or a smaller batch_size"
        ) from error
    return found


def _run(shared: Shared, shipped: ShippedModel, name: str, kind: Kind, attack: Attack | None) -> Outcome | Exception:
    """Return what a person has to be told as a value: Ray would wrap it in the worker's traceback."""
    try:
        return shared.run(shipped, name, kind, attack)
    except VestigeError as error:
        return error
    except (IndexError, RuntimeError) as error:
        # An intervention fitted on a model of other widths fails somewhere inside a hook.
        if not shipped.interventions:
            raise
        return type(error)(str(error))
