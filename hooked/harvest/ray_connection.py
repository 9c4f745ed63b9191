"""Reaching Ray: what a harvest asks of it, and a connection that leaves things as they were."""

from __future__ import annotations

import logging
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Any

from hooked.errors import VestigeError


@dataclass(frozen=True)
class RayOptions:
    """Arguments of the Ray engine.

    Args:
        workers: Actors, each with a copy of the model.
        num_gpus: GPUs of each; fractions let workers share one.
        num_cpus: CPUs of each.
        address: A running cluster. When None, the Ray that this process or machine has, else one that ends with the
            harvest.

    Raises:
        VestigeError: A number is out of range.
    """

    workers: int = 1
    num_gpus: float = 0
    num_cpus: float = 1
    address: str | None = None

    def __post_init__(self) -> None:
        if type(self.workers) is not int or self.workers < 1:
            raise VestigeError(f"workers is at least 1, got {self.workers!r}")
        for name in ("num_gpus", "num_cpus"):
            value = getattr(self, name)
            if type(value) not in (int, float) or not 0 <= value < float("inf"):
                raise VestigeError(f"{name} is at least 0, got {value!r}")
        if self.address is not None and (type(self.address) is not str or self.address.startswith("ray://")):
            raise VestigeError(
                f"address is host:port of a cluster that this machine is part of, got {self.address!r}; "
                "Ray clients (ray://) are not supported"
            )


def imported() -> Any:
    """Return Ray with Ray Data.

    Raises:
        VestigeError: It is not installed.
    """
    try:
        with unwarned():
            import ray
            import ray.data
    except ImportError as error:
        raise VestigeError("engine='ray' needs Ray; install it with pip install 'vestige[ray]'") from error
    return ray


@contextmanager
def connected(ray: Any, asked: RayOptions) -> Iterator[None]:
    """Use the Ray that there is, or start one; only what was begun here is ended.

    Raises:
        VestigeError: No cluster answers, the process uses another one, or this machine has too few GPUs.
    """
    with _quiet():
        if ray.is_initialized():
            if asked.address not in (None, "auto", ray.get_runtime_context().gcs_address):
                raise VestigeError(f"this process uses another Ray than '{asked.address}' already; leave address out")
            yield
            return
        try:
            with unwarned():
                _connect(ray, asked)
            yield
        finally:
            ray.shutdown()


def _connect(ray: Any, asked: RayOptions) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if asked.address not in (None, "auto") and (reason := _refusal(asked.address)):
        raise VestigeError(f"no Ray cluster answers at '{asked.address}' ({reason})")
    try:
        ray.init(address=asked.address or "auto", **quiet)
    except ConnectionError as error:
        if asked.address is not None:
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise VestigeError(f"no Ray cluster answers at '{asked.address}' ({reason})") from error
    if ray.is_initialized():
        return
    cpus = max(os.cpu_count() or 1, ceil(asked.workers * asked.num_cpus))
    ray.init(address="local", num_cpus=cpus, include_dashboard=False, **quiet)
    found = ray.cluster_resources().get("GPU", 0)
    if found < asked.num_gpus:
        raise VestigeError(f"a worker needs {asked.num_gpus} GPUs, Ray finds {found:g} on this machine")


def _refusal(address: str) -> str | None:
    """Return why nobody can be reached at an address; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if not (host and port.isascii() and port.isdigit()):
        return "an address is host:port"
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError, OverflowError) as error:
        return str(error)
    return None


@contextmanager
def unwarned() -> Iterator[None]:
    """Drop warnings of Ray's own code about Ray's own code."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Ray's processes from reporting home and its messages off the terminal."""
    settings = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    before = {name: os.environ.get(name) for name in settings}
    logger = logging.getLogger("ray.data")
    level = logger.level
    os.environ.update(settings)
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value
