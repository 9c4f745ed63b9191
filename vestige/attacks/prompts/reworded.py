"""Jailbreak by other words: the same question as somebody else would put it."""

from __future__ import annotations

from dataclasses import replace

from hooked import UnlearnData, VestigeError
from vestige.attacks.asked import asked
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.prompts.framing import fitted, noted


def reworded(target: Target, data: UnlearnData, *, batch_size: int = 32, seed: int = 0) -> Attacked:
    """Ask each question in the other words that its item gives (`paraphrased_prompt`).

    Items without other words are asked in their own; the note counts them.

    Args:
        target: The subject.
        data: Its forget items are asked.
        batch_size: Rows per forward pass.
        seed: Nothing is drawn here.

    Raises:
        VestigeError: No item has other words, or one has no answer.

    Source:
        Patil et al. 2023, arXiv:2309.17410 (input rephrasing).
    """
    bare = sum(not item.paraphrased_prompt for item in data.forget)
    if bare == len(data.forget):
        raise VestigeError(
            "reworded needs the questions in other words, and no forget item has a paraphrased_prompt "
            "(column paraphrased_question)"
        )
    other = [replace(item, prompt=item.paraphrased_prompt or item.prompt) for item in data.forget]
    items, cut = fitted(target.view, other)
    own = f"{bare} of {len(items)} items have no other words and were asked in their own" if bare else ""
    return asked(target.view, items, batch_size=batch_size, note=noted(own, cut))
