"""What every test may rely on: no network, a seeded generator of its own, and two threads in all."""

import gc
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

# Libraries read these once, while they are imported.
os.environ.update(
    HF_HUB_OFFLINE="1",
    TRANSFORMERS_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    WANDB_MODE="disabled",
    TOKENIZERS_PARALLELISM="false",
    MPLBACKEND="Agg",
    # Of NumPy, SciPy and scikit-learn, here and in every process that a test starts.
    OMP_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
)

import pytest
import torch
from hypothesis import settings

from tests import warm

# Under `pytest -n` every worker gets one thread, so that two workers do not fight over two cores.
# Tiny models gain nothing from a second thread, and on a busy machine threads wait for each other.
torch.set_num_threads(1)

settings.register_profile("vestige", deadline=None, derandomize=True, database=None)
settings.load_profile("vestige")


def pytest_configure(config: pytest.Config) -> None:
    """Start the server of warm processes, one for all workers, who find its socket in their environment."""
    if not hasattr(config, "workerinput"):
        running = ExitStack()
        running.enter_context(warm.server())
        config.add_cleanup(running.close)


class NetworkBlockedError(RuntimeError):
    """A test reached for the network. Not an OSError: libraries catch those and try again."""


def _is_local(family: int, address: Any) -> bool:
    if family not in (socket.AF_INET, socket.AF_INET6):
        return True
    host = str(address[0])
    return host in ("localhost", "::1") or host.startswith("127.")


@pytest.fixture(scope="session", autouse=True)
def _loopback_only() -> Iterator[None]:
    """Refuse every connection that would leave the machine."""
    connect, connect_ex = socket.socket.connect, socket.socket.connect_ex

    def guarded(inner: Any) -> Any:
        def call(self: socket.socket, address: Any) -> Any:
            if not _is_local(self.family, address):
                raise NetworkBlockedError(f"the test suite runs offline, and something connected to {address}")
            return inner(self, address)

        return call

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded(connect))
        patch.setattr(socket.socket, "connect_ex", guarded(connect_ex))
        yield


# Files whose tests or fixtures take long, the longest first. Begun last, one of them would keep one worker busy while
# the other has nothing left, or both would build the same fixtures when they take work from each other.
LONG = ("test_demo.py", "test_narrative.py", "test_on_ray.py", "test_resume.py", "test_triton.py", "test_bounded.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put long tests first."""
    rank = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.name, len(LONG)))


def pytest_collection_finish() -> None:
    """Keep thousands of tests and modules, which live to the end, out of every garbage collection and forked child."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let what was kept be taken apart in order."""
    gc.unfreeze()


def seed_of(nodeid: str) -> int:
    """A seed that depends on the name of a test and on nothing else."""
    return int.from_bytes(hashlib.sha256(nodeid.encode()).digest()[:8], "big") >> 1


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> torch.Generator:
    """A generator seeded by the test's own name: the same in every run, different between tests."""
    return torch.Generator().manual_seed(seed_of(request.node.nodeid))
