"""Turn what a caller passes into fresh arrays, or say in one line what is wrong with it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Float, Int

from hooked.errors import VestigeError

# A log-probability of a sure token may come out a little above 0 in float32.
ROUNDING = 1e-5


def numbers(values: npt.ArrayLike, name: str, *, ndim: int = 1, allow_inf: bool = False) -> Float[np.ndarray, "*_"]:
    """Return `values` as float64 with `ndim` axes, not empty and without NaN (or infinity, unless allowed)."""
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise VestigeError(f"{name} must be an array of numbers: {error}") from error
    if array.ndim != ndim or array.size == 0:
        raise VestigeError(f"{name} needs a non-empty array with {ndim} axes, got shape {list(array.shape)}")
    bad = np.isnan(array) if allow_inf else ~np.isfinite(array)
    if bad.any():
        first = np.argwhere(bad)[0]
        raise VestigeError(
            f"{name} has {array[tuple(first)]} at item {', '.join(map(str, first))}; drop it or mend its source"
        )
    return array


def nlls(values: npt.ArrayLike, name: str) -> Float[np.ndarray, " n"]:
    """Return mean token NLLs as float64, at least 0; infinity is an answer of probability 0."""
    array = numbers(values, name, allow_inf=True)
    if array.min() < -ROUNDING:
        raise VestigeError(f"{name} cannot be below 0, got {array.min():g} at item {array.argmin()}; negate log-probs")
    return array


def token_ids(values: npt.ArrayLike, name: str) -> Int[np.ndarray, " n_tokens"]:
    """Return `values` as a non-empty vector of integers."""
    array = np.asarray(values)
    if array.ndim != 1 or array.size == 0 or not np.issubdtype(array.dtype, np.integer):
        raise VestigeError(
            f"{name} needs a non-empty list of token ids, got shape {list(array.shape)} of {array.dtype}"
        )
    return array


def check_same_length(**arrays: npt.NDArray[Any]) -> None:
    """Refuse arrays whose items cannot be paired."""
    if len({len(array) for array in arrays.values()}) > 1:
        found = ", ".join(f"{name} {len(array)}" for name, array in arrays.items())
        raise VestigeError(f"items must be paired, but the lengths differ: {found}")
