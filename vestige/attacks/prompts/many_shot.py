"""Many-shot jailbreaking: so many answered questions that not answering would break the pattern."""

from __future__ import annotations

from hooked import UnlearnData
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.prompts.examples import asked_after_examples
from vestige.attacks.prompts.framing import SEPARATOR


def many_shot(
    target: Target,
    data: UnlearnData,
    *,
    shots: int = 128,
    separator: str = SEPARATOR,
    batch_size: int = 8,
    seed: int = 0,
) -> Attacked:
    """Ask after as many answered questions about what was kept as the model has room for.

    Args:
        target: The subject.
        data: Its forget items are asked, its retain items are the examples.
        shots: Examples before each question at most; those that do not fit are dropped and counted in the note.
        separator: Between two examples.
        batch_size: Rows per forward pass; they are long.
        seed: Of the draw.

    Raises:
        VestigeError: `shots` is below 1, there is no retain item with an answer, or a forget item has none.

    Source:
        Anil et al. 2024, *Many-shot Jailbreaking*, NeurIPS 2024. Their examples are harmful dialogues; ours are facts.
    """
    return asked_after_examples(
        target, data, shots=shots, separator=separator, batch_size=batch_size, seed=seed, attack="many_shot"
    )
