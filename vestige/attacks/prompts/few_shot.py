"""In-context learning: a few kept facts, asked and answered, show how questions are answered here."""

from __future__ import annotations

from hooked import UnlearnData
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.prompts.examples import asked_after_examples
from vestige.attacks.prompts.framing import SEPARATOR


def few_shot(
    target: Target,
    data: UnlearnData,
    *,
    shots: int = 4,
    separator: str = SEPARATOR,
    batch_size: int = 32,
    seed: int = 0,
) -> Attacked:
    """Ask after a few answered questions about what was kept.

    Args:
        target: The subject.
        data: Its forget items are asked, its retain items are the examples.
        shots: Examples before each question; another draw for each.
        separator: Between two examples.
        batch_size: Rows per forward pass.
        seed: Of the draw.

    Raises:
        VestigeError: `shots` is below 1, there is no retain item with an answer, or a forget item has none.

    Source:
        Jin et al. 2024, RWKU, arXiv:2406.10890 (in-context learning).
    """
    return asked_after_examples(
        target, data, shots=shots, separator=separator, batch_size=batch_size, seed=seed, attack="few_shot"
    )
