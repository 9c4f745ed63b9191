"""Memory, threads and open files do not grow with the corpus."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.hooked.store.small import documents, small_store

# Each size in a child of its own, forked after the imports: a peak counts from the fork on.
CODE = """
import os, sys
from pathlib import Path
import torch
from hooked import ActivationStore
from tests.hooked.store.small import small_store
from tests.tiny import shared_model
torch.set_num_threads(1)
shared_model()

def peak(folder, number):
    rng = torch.Generator().manual_seed(0)
    corpus = (torch.randint(3, 99, (64,), generator=rng) for _ in range(number))
    small_store(folder, corpus, sites="resid_post.0", dtype="float32", batch_tokens=4096, shard_rows=4096)
    for batch in ActivationStore(folder).site("resid_post.0").batches(1024):
        pass
    return next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:"))

for number in map(int, sys.argv[2:]):
    if child := os.fork():
        assert os.waitpid(child, 0)[1] == 0
    else:
        print(peak(Path(sys.argv[1]) / str(number), number), flush=True)
        os._exit(0)
"""


# Slow, because memory that grows shows only behind what is filled once.
@pytest.mark.slow
def test_peak_memory_is_the_same_for_ten_times_the_corpus(tmp_path: Path) -> None:
    # Long enough that the ring and the window of documents are full in both.
    numbers = (1000, 6000)
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path), *map(str, numbers)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    peaks = [int(line) for line in done.stdout.split()]
    more = 5000 * 64 * 32 * 4 / 1024
    assert len(peaks) == 2
    assert peaks[1] - peaks[0] < 0.2 * more


def test_nothing_is_left_open(tmp_path: Path) -> None:
    small_store(tmp_path / "warm")
    before = len(os.listdir("/proc/self/fd")), threading.active_count()
    for i in range(5):
        store = small_store(tmp_path / str(i), documents(10))
        list(store.site("z.1").batches(16))
        store.verify(progress=False)
        del store
    assert (len(os.listdir("/proc/self/fd")), threading.active_count()) == before
