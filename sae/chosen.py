"""Numbers of latents that someone named, checked."""

from __future__ import annotations

from collections.abc import Iterable
from operator import index
from typing import Any

import numpy as np
import torch

from hooked.errors import VestigeError


def existing(latents: Iterable[Any], d_sae: int, *, what: str | None = None) -> list[int]:
    """Return numbers of latents that exist.

    Args:
        latents: Whole numbers of any kind; never rounded, and no mask.
        d_sae: Number of latents.
        what: Whose latents, in words; `an SAE of 1,024` when None.

    Raises:
        VestigeError: One is no whole number or does not exist.
    """
    whose = f"an SAE of {d_sae:,}" if what is None else what
    return [_existing(latent, d_sae, whose) for latent in latents]


def _existing(latent: Any, d_sae: int, what: str) -> int:
    boolean = isinstance(latent, bool | np.bool_) or getattr(latent, "dtype", None) == torch.bool
    try:
        number = None if boolean else index(latent)
    except TypeError:
        number = None
    if number is None:
        raise VestigeError(f"latents are given by whole numbers, got {latent!r}")
    if not 0 <= number < d_sae:
        raise VestigeError(f"no latent {number} in {what} (latents are 0 to {d_sae - 1})")
    return number
