"""Model utility: one number for what a model can still do, low as soon as one part is low."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hooked.errors import VestigeError

from ._checks import numbers


@dataclass(frozen=True)
class ModelUtility:
    """A harmonic mean with its parts, since a single zero hides all the others.

    Args:
        value: In [0, 1].
        parts: The entries, by name.
    """

    value: float
    parts: Mapping[str, float]

    @property
    def zeros(self) -> tuple[str, ...]:
        """Names of the parts that made the value 0."""
        return tuple(name for name, part in self.parts.items() if part == 0)


def harmonic_mean(values: npt.ArrayLike) -> float:
    """Return `k / sum_i (1 / x_i)`, and 0 as soon as one entry is 0.

    Raises:
        VestigeError: Nothing to average, NaN, or an entry below 0.
    """
    entries = numbers(values, "values")
    if entries.min() < 0:
        raise VestigeError(
            f"a harmonic mean needs entries of at least 0, got {entries.min():g} at item {entries.argmin()}"
        )
    with np.errstate(divide="ignore", over="ignore"):
        return float(len(entries) / (1 / entries).sum())


def model_utility(parts: Mapping[str, float]) -> ModelUtility:
    """Combine scores of what should have survived by their harmonic mean.

    In the source: {probability, ROUGE-L recall, truth-ratio score} x {retain, real authors, world facts}, where the
    retain set uses `seq_prob` and the other two `choice_prob`, and the truth-ratio score is the mean of `true_better`.

    higher_is: useful. Range [0, 1]. Floor: the never-taught model's value on the same parts; 0 for a collapsed model.

    Args:
        parts: Name to score in [0, 1].

    Raises:
        VestigeError: No part, NaN, or a part outside [0, 1] (named).

    Source:
        Maini et al., *TOFU*, arXiv:2401.06121.
    """
    for name, part in parts.items():
        if not 0 <= part <= 1:
            raise VestigeError(f"part {name!r} of the model utility must be in [0, 1], got {part}")
    return ModelUtility(harmonic_mean(list(parts.values())), dict(parts))
