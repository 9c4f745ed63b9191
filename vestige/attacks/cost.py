"""What a set of attacks will take, said before it starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from hooked import HookedModel, UnlearnData
from probes import answer_probability
from vestige.attacks.catalogue import Attack


@dataclass(frozen=True)
class Cost:
    """An estimate.

    Args:
        attacks: How many are run.
        subjects: On how many models.
        passes: Passes over the forget items, in all.
        pass_seconds: What one takes here, measured on the original.
    """

    attacks: int
    subjects: int
    passes: int
    pass_seconds: float

    @property
    def seconds(self) -> float:
        """The estimate; it counts passes and nothing else, so it is right to a factor of about two."""
        return self.passes * self.pass_seconds

    def __str__(self) -> str:
        total = f"{self.seconds:.0f} s" if self.seconds < 120 else f"{self.seconds / 60:.0f} min"
        return (
            f"{self.attacks} attacks on {self.subjects} subjects, about {total}: {self.passes:,} passes over the "
            f"forget items of {self.pass_seconds:.2g} s each"
        )


def cost_of(
    original: HookedModel, data: UnlearnData, attacks: Sequence[Attack], *, subjects: int, batch_size: int
) -> Cost:
    """Time one pass and count the others.

    Args:
        original: The model before unlearning.
        data: Prepared items.
        attacks: Rows of the table.
        subjects: How many models will be attacked.
        batch_size: Rows per forward pass.
    """
    # The first pass also pays for what is set up once.
    for _ in range(2):
        started = time.perf_counter()
        answer_probability(original, data.forget, batch_size=batch_size)
        seconds = time.perf_counter() - started
    return Cost(len(attacks), subjects, subjects * sum(one.passes for one in attacks), seconds)
