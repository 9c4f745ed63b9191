"""A seed for code that draws from torch's global generators, which are left as they were found."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int, device: str | torch.device = "cpu") -> Iterator[None]:
    """Seed the generators of the CPU and of one device for the length of a block.

    `torch.manual_seed` would reseed those of all GPUs, which nothing puts back.
    """
    on = torch.device(device)
    with torch.random.fork_rng(devices=[on] if on.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if on.type == "cuda":
            with torch.cuda.device(on):
                torch.cuda.manual_seed(seed)
        yield
