"""No attack: the question as it stands. What every attack is compared with."""

from __future__ import annotations

from hooked import UnlearnData
from vestige.attacks.asked import asked
from vestige.attacks.attacked import Attacked, Target


def plain(target: Target, data: UnlearnData, *, batch_size: int = 32, seed: int = 0) -> Attacked:
    """Ask the deployed system as its data do.

    Args:
        target: The subject.
        data: Its forget items are asked.
        batch_size: Rows per forward pass.
        seed: Nothing is drawn here.

    Raises:
        VestigeError: An item has no answer.
    """
    return asked(target.view, data.forget, batch_size=batch_size)
