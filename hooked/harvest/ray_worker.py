"""What runs inside Ray's processes on a harvest: the worker that turns tasks into shards."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hooked.errors import VestigeError
from hooked.harvest.plan import Plan, code, identity
from hooked.harvest.shipping import ShippedModel, ship
from hooked.harvest.steps import write_shards
from hooked.model import HookedModel
from hooked.store.manifest import SHARDS, StoreSpec, read_spec


@dataclass(frozen=True)
class Job:
    """What all tasks of a harvest share.

    Args:
        shipped: The model.
        settled: The plan.
        folder: Folder of the store.
        buffer_bytes: Memory for rows on their way to disk.
        threads: Threads of PyTorch; sums in another order differ in their last bits.
        precision: PyTorch's precision of float32 products.
        deterministic: Whether PyTorch is kept to deterministic algorithms.
    """

    shipped: ShippedModel
    settled: Plan
    folder: Path
    buffer_bytes: int
    threads: int
    precision: str
    deterministic: bool

    @staticmethod
    def of(model: HookedModel, settled: Plan, folder: Path, buffer_bytes: int) -> Job:
        """Return the job of computing as this process would.

        Raises:
            VestigeError: The model cannot be sent to another process.
        """
        return Job(
            shipped=ship(model),
            settled=settled,
            folder=folder,
            buffer_bytes=buffer_bytes,
            threads=torch.get_num_threads(),
            precision=torch.get_float32_matmul_precision(),
            deterministic=torch.are_deterministic_algorithms_enabled(),
        )

    def model(self) -> HookedModel:
        """Set this process up as the calling one was, and return the model.

        Raises:
            VestigeError: The folder or a GPU is not here, or the model or the packages are others than planned.
        """
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.precision)
        torch.use_deterministic_algorithms(self.deterministic)
        self._check_folder()
        if self.shipped.device == "cuda" and not torch.cuda.is_available():
            raise VestigeError("a Ray worker finds no CUDA device; the model is on one")
        model = self.shipped.unpack()
        planned = {key: self.settled.spec.content[key] for key in ("code", "model")}
        different = StoreSpec({"code": code(), "model": identity(model)}).differences(StoreSpec(planned))
        if different:
            raise VestigeError(
                f"a Ray worker would compute something else than this process ({different[0]}); "
                "every machine needs the same packages"
            )
        return model

    def _check_folder(self) -> None:
        try:
            shared = read_spec(self.folder).digest == self.settled.spec.digest
        except VestigeError:
            shared = False
        if not shared or not (self.folder / SHARDS).is_dir():
            raise VestigeError(
                f"a Ray worker does not see the store '{self.folder}'; "
                "its path has to lead to the same file system on every machine"
            )


class Worker:
    """Writes shards; one per actor.

    Args:
        job: Reference to the job, in a list.
        mailbox: The mailbox.
    """

    def __init__(self, job: list[Any], mailbox: Any) -> None:
        import ray

        self._reference, self._mailbox = job, mailbox
        ray.get(mailbox.enter.remote(ray.get_runtime_context().current_actor))

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        """Write the shards with these numbers, and say of each what went wrong."""
        return {"shard": block["shard"], "error": np.array([self._write(int(shard)) for shard in block["shard"]])}

    @cached_property
    def _job(self) -> Job:
        import ray

        job: Job = ray.get(self._reference[0])
        return job

    @cached_property
    def _model(self) -> HookedModel:
        return self._job.model()

    def _write(self, shard: int) -> str:
        import ray

        box = ray.get(self._mailbox.task.remote(shard))
        if box is None:
            return ""
        job = self._job
        try:
            write_shards(
                self._model,
                ray.get(box[0]),
                job.settled,
                job.folder,
                buffer_bytes=job.buffer_bytes,
                written=lambda rows: None,
            )
        except VestigeError as error:
            return str(error)
        except OSError as error:
            return f"'{job.folder}' cannot be written: {error.strerror or error}"
        return ""
