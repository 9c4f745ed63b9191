"""The Ray engine of `harvest`: a pool of actors, each with a model, computes shards of the same bytes as a local run.

The process that calls `harvest` reads the corpus and cuts it into one task per missing shard; Ray Data maps the tasks
over the pool. Ray Data has no source that a generator in the calling process could feed, so a mailbox does: an actor
that holds the tasks on their way, while a read task yields their numbers. A task comes after another one's result, so
no more than two per worker are on their way, however long the corpus is.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from hooked.errors import VestigeError
from hooked.harvest.corpus import Corpus
from hooked.harvest.plan import Plan
from hooked.harvest.ray_connection import RayOptions, connected, imported, unwarned
from hooked.harvest.ray_mailbox import mailbox_class
from hooked.harvest.ray_worker import Job, Worker
from hooked.harvest.resume import Finished
from hooked.harvest.steps import Step, Steps
from hooked.model import HookedModel
from hooked.progress import bar
from hooked.store.manifest import SHARDS

# A task on its way while another one runs keeps a worker busy.
_PER_WORKER = 2
# A task whose worker dies is tried this many times more.
_RETRIES = 3


@dataclass(frozen=True)
class Task:
    """One missing shard.

    Args:
        shard: Its number.
        steps: The steps that overlap it, with its pieces only.
    """

    shard: int
    steps: tuple[Step, ...]

    @property
    def rows(self) -> int:
        """Rows of the shard."""
        return sum(piece.stop - piece.start for step in self.steps for piece in step.missing)


def fill(
    model: HookedModel,
    corpus: Corpus,
    settled: Plan,
    folder: Path,
    done: Finished,
    *,
    total: int | None,
    buffer_bytes: int,
    progress: bool,
    **ray_options: Any,
) -> Finished:
    """Write every shard that is missing on Ray workers, and compare the tokens of the others.

    Args:
        model: A model on one device; it is sent to every worker.
        corpus: The documents; read here.
        settled: The plan.
        folder: Folder of the store, on a file system that all workers share.
        done: Shards that are finished.
        total: Expected rows, for the bar.
        buffer_bytes: Memory of each worker for rows on their way to disk.
        progress: Show a bar on a terminal.
        ray_options: Fields of `RayOptions`.

    Raises:
        VestigeError: Ray is not installed or not reached, an option does not exist, the model cannot be sent, or a
            task failed. Finished shards stay, and the same call goes on from there, with this engine or the local one.
    """
    asked = _options(ray_options, model)
    ray = imported()
    steps = Steps(corpus, settled, done)
    waiting = tasks(steps, settled.spec.shard_rows)
    with bar(total, what="harvest", row_bytes=settled.row_bytes, show=progress) as shown:
        shown.update(sum(shard.rows for shard in done.values()))
        first = next(waiting, None)
        if first is not None:
            job = Job.of(model, settled, folder.resolve(), buffer_bytes)
            with connected(ray, asked), closing(_computed(ray, job, chain([first], waiting), asked)) as computed:
                for rows in computed:
                    shown.update(rows)
    for part in (folder / SHARDS).glob(".shard-*.part"):
        # Of workers that were killed.
        part.unlink(missing_ok=True)
    return done.complete(steps.rows)


def tasks(steps: Iterable[Step], shard_rows: int) -> Iterator[Task]:
    """Yield the work of every missing shard, once its last step is there."""
    parts: dict[int, list[Step]] = {}
    for step in steps:
        for piece in step.missing:
            parts.setdefault(piece.shard, []).append(replace(step, missing=(piece,)))
        for shard in [shard for shard in parts if (shard + 1) * shard_rows <= step.end]:
            yield Task(shard, tuple(parts.pop(shard)))
    for shard, left in parts.items():
        yield Task(shard, tuple(left))


def _options(given: dict[str, Any], model: HookedModel) -> RayOptions:
    known = [field.name for field in fields(RayOptions)]
    unknown = next((name for name in given if name not in known), None)
    if unknown is not None:
        raise VestigeError(f"harvest has no argument '{unknown}' with engine='ray'; there are {', '.join(known)}")
    asked = RayOptions(**given)
    if (model.device.type == "cuda") != (asked.num_gpus > 0):
        raise VestigeError(
            f"workers compute where the model is, on '{model.device.type}', and num_gpus is {asked.num_gpus}; "
            "move the model, or give num_gpus above 0 for a model on CUDA and 0 for any other"
        )
    return asked


def _computed(ray: Any, job: Job, waiting: Iterator[Task], asked: RayOptions) -> Generator[int, None, None]:
    """Yield the rows of every shard that was written."""
    with ExitStack() as stack:
        mailbox = ray.remote(num_cpus=0)(mailbox_class()).options(scheduling_strategy=_here(ray)).remote()
        stack.callback(_stop, ray, mailbox)
        under_way: dict[int, int] = {}

        def send() -> None:
            task = next(waiting, None)
            if task is None:
                ray.get(mailbox.close.remote())
                return
            under_way[task.shard] = task.rows
            # In a list, or Ray would send the content instead of the reference.
            ray.get(mailbox.put.remote(task.shard, [ray.put(task.steps)]))

        held = _held(ray, job)
        for _ in range(_PER_WORKER * asked.workers):
            send()
        for shard, error in stack.enter_context(closing(_results(ray, mailbox, held, asked))):
            if error:
                raise VestigeError(error)
            # A read task that was started anew repeats itself.
            if shard in under_way:
                rows = under_way.pop(shard)
                ray.get(mailbox.drop.remote(shard))
                send()
                yield rows


def _held(ray: Any, job: Job) -> Any:
    """Put the job where workers find it."""
    try:
        return ray.put(job)
    except (TypeError, AttributeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise VestigeError(f"the model cannot be sent to Ray workers: {reason}; use engine='local'") from error


def _stop(ray: Any, mailbox: Any) -> None:
    """End the workers and the mailbox at once; left alone, a worker would finish its shard after the harvest failed."""
    try:
        for worker in ray.get(mailbox.workers.remote()):
            ray.kill(worker)
        ray.kill(mailbox)
    except ray.exceptions.RayError:
        # Whoever is gone already needs no stopping.
        return


def _results(ray: Any, mailbox: Any, job: Any, asked: RayOptions) -> Generator[tuple[int, str], None, None]:
    """Yield shards that a worker is through with, each with what went wrong.

    Raises:
        VestigeError: Workers keep dying over a shard.
    """
    with unwarned():
        dataset = _dataset(ray, mailbox, job, asked)
    try:
        with closing(iter(dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="numpy"))) as blocks:
            for block in blocks:
                yield from zip(block["shard"].tolist(), block["error"].tolist(), strict=True)
    except ray.exceptions.RayTaskError:
        # Not a death but a bug, whose traceback is wanted.
        raise
    except ray.exceptions.RayError as error:
        raise VestigeError(
            f"Ray gave up a shard because its workers keep dying ({str(error).splitlines()[0]}); "
            "what is finished stays, and the same call goes on from there"
        ) from error


def _dataset(ray: Any, mailbox: Any, job: Any, asked: RayOptions) -> Any:
    compute = ray.data.ActorPoolStrategy(size=asked.workers, max_tasks_in_flight_per_actor=_PER_WORKER)
    dataset = ray.data.read_datasource(_source(ray, mailbox), override_num_blocks=1, num_cpus=0).map_batches(
        Worker,
        fn_constructor_args=([job], mailbox),
        batch_size=None,
        batch_format="numpy",
        compute=compute,
        num_cpus=asked.num_cpus,
        num_gpus=asked.num_gpus,
        max_restarts=-1,
        max_task_retries=_RETRIES,
    )
    dataset.context.enable_progress_bars = False
    # Else numbers would be gathered until they fill a block, and no worker would see the first.
    dataset.context.target_max_block_size = 1
    return dataset


def _source(ray: Any, mailbox: Any) -> Any:
    """Return the numbers of the tasks as a Ray Data source that is read in one piece, on this machine."""
    from ray.data.block import BlockAccessor, BlockMetadata

    def numbers() -> Iterator[Any]:
        place = 0
        while (shard := ray.get(mailbox.shard.remote(place))) is not None:
            yield BlockAccessor.batch_to_block({"shard": np.array([shard])})
            place += 1

    class Numbers(ray.data.Datasource):  # type: ignore[misc]
        supports_distributed_reads = False

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *_: Any, **__: Any) -> list[Any]:
            unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ray.data.ReadTask(numbers, unknown)]

    return Numbers()


def _here(ray: Any) -> Any:
    """Return the strategy that keeps an actor on this machine, which the harvest cannot do without anyway."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    return NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
