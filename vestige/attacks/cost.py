"""What an audit or a set of attacks will take, said before it starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from hooked import HookedModel, UnlearnData
from probes import answer_probability
from vestige.attacks.catalogue import Attack
from vestige.intrinsic.cells import COMPONENTS, MAX_ITEMS
from vestige.intrinsic.positions import POSITIONS

# Passes that reading one item takes, measured on the built-in model: right and wrong answers, continuation, states.
_PER_ITEM = 6


@dataclass(frozen=True)
class Cost:
    """An estimate.

    Args:
        attacks: How many are run.
        subjects: On how many models.
        passes: Passes over the forget items, in all.
        pass_seconds: What one takes here, measured on the original.
        checks: Whether the checks of an audit are among them.
    """

    attacks: int
    subjects: int
    passes: int
    pass_seconds: float
    checks: bool = False

    @property
    def seconds(self) -> float:
        """The estimate; it counts passes and nothing else, so it is right to a factor of about two."""
        return self.passes * self.pass_seconds

    def __str__(self) -> str:
        total = f"{self.seconds:.0f} s" if self.seconds < 120 else f"{self.seconds / 60:.0f} min"
        what = [
            *([f"{self.attacks} attack{'s' if self.attacks > 1 else ''}"] if self.attacks else []),
            *(["all checks"] if self.checks else []),
        ]
        return (
            f"{' and '.join(what)} on {self.subjects} subjects, about {total}: {self.passes:,} passes over the "
            f"forget items of {self.pass_seconds:.2g} s each"
        )


def cost_of(
    original: HookedModel,
    data: UnlearnData,
    attacks: Sequence[Attack],
    *,
    subjects: int,
    batch_size: int,
    checks: bool = False,
    where: bool = False,
) -> Cost:
    """Time one pass and count the others.

    Args:
        original: The model before unlearning.
        data: Prepared items.
        attacks: Rows of the table.
        subjects: How many models will be attacked.
        batch_size: Rows per forward pass.
        checks: Whether the checks of an audit are run too.
        where: Whether it is mapped where the answers are.
    """
    blocks = original.n_layers
    each = sum(one.passes + one.per_block * blocks for one in attacks)
    if checks:
        # Every item is answered, continued and looked into; states are patched block by block, bare weights too.
        every = sum(len(items) for items in (data.forget, data.retain, data.holdout, data.control))
        each += round(_PER_ITEM * every / len(data.forget)) + 2 * blocks
    if where:
        each += round(len(COMPONENTS) * len(POSITIONS) * blocks * min(MAX_ITEMS, len(data.forget)) / len(data.forget))
    # The first pass also pays for what is set up once.
    for _ in range(2):
        started = time.perf_counter()
        answer_probability(original, data.forget, batch_size=batch_size)
        seconds = time.perf_counter() - started
    return Cost(len(attacks), subjects, subjects * each, seconds, checks)
