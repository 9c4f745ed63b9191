"""Hook stripping: whoever has the weights runs them without whatever was built around them."""

from __future__ import annotations

from hooked import UnlearnData
from vestige.attacks.asked import asked
from vestige.attacks.attacked import Attacked, Target


def stripped(target: Target, data: UnlearnData, *, batch_size: int = 32, seed: int = 0) -> Attacked:
    """Ask the bare weights: hooks, gates, combiners and prompt edits are left out.

    It undoes whatever does not change weights, and nothing else.

    Args:
        target: The subject.
        data: Its forget items are asked.
        batch_size: Rows per forward pass.
        seed: Nothing is drawn here.

    Raises:
        VestigeError: An item has no answer.
    """
    return asked(target.raw, data.forget, batch_size=batch_size)
