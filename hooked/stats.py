"""Running moments of a stream of rows, mergeable and accumulated in float64."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked.errors import VestigeError


@dataclass(frozen=True)
class RunningMoments:
    """Count, mean and sum of squared deviations per dimension; every update returns a new value.

    Uses the pairwise update of Chan, Golub and LeVeque (1983), which does not cancel when the mean is large against the
    spread.

    Args:
        count: Rows seen.
        mean: Mean per dimension, float64.
        deviation: Sum of squared deviations from the mean, float64.
    """

    count: int
    mean: Float[Tensor, " d"]
    deviation: Float[Tensor, " d"]

    @staticmethod
    def empty(d: int) -> RunningMoments:
        """Return the moments of no rows."""
        return RunningMoments(0, torch.zeros(d, dtype=torch.float64), torch.zeros(d, dtype=torch.float64))

    @staticmethod
    def of(rows: Float[Tensor, "*batch d"], *, mask: Bool[Tensor, "*batch"] | None = None) -> RunningMoments:
        """Return the moments of one block of rows.

        Args:
            rows: Any floating dtype; the last axis holds the dimensions.
            mask: True on rows that count. A masked row is left out; a genuine all-zero row stays.

        Raises:
            VestigeError: A row that counts holds NaN or infinity.
        """
        flat = rows.reshape(-1, rows.shape[-1]) if mask is None else rows[mask]
        wide = flat.detach().to("cpu", torch.float64)
        if not bool(torch.isfinite(wide).all()):
            bad = int((~torch.isfinite(wide)).any(-1).nonzero()[0])
            raise VestigeError(f"row {bad} of {len(wide)} holds NaN or infinity, so it has no moments")
        if len(wide) == 0:
            return RunningMoments.empty(rows.shape[-1])
        mean = wide.mean(0)
        return RunningMoments(len(wide), mean, (wide - mean).square().sum(0))

    def merge(self, other: RunningMoments) -> RunningMoments:
        """Return the moments of both sets of rows together."""
        count = self.count + other.count
        if self.count == 0 or other.count == 0:
            return other if self.count == 0 else self
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        deviation = self.deviation + other.deviation + delta.square() * (self.count * other.count / count)
        return RunningMoments(count, mean, deviation)

    @property
    def variance(self) -> Float[Tensor, " d"]:
        """Population variance (divided by the count)."""
        return self.deviation / max(self.count, 1)

    @property
    def std(self) -> Float[Tensor, " d"]:
        """Sample standard deviation (divided by the count minus one).

        Raises:
            VestigeError: Fewer than two rows were seen.
        """
        if self.count < 2:
            raise VestigeError(f"a sample standard deviation needs at least 2 rows, got {self.count}")
        return (self.deviation / (self.count - 1)).sqrt()
