"""What a multiple choice offers: the right answer and the wrong ones, all in one style."""

from __future__ import annotations

from collections.abc import Sequence

from hooked import Item, VestigeError


def options_of(items: Sequence[Item], *, attack: str) -> list[tuple[str, ...]]:
    """Return the options of each item, the right one first.

    Wrong answers are in the style of the paraphrased answer where an item has one (so the data sets have it), and
    otherwise in that of the plain one. Wrong answers that are the right one are left out.

    Args:
        items: Each with an answer and wrong ones.
        attack: Who asks, for the message.

    Raises:
        VestigeError: An item has no answer, or none but the right one.
    """
    found = []
    for n, item in enumerate(items):
        right = item.paraphrased_answer or item.answer
        wrong = tuple(dict.fromkeys(text for text in item.perturbed_answers if text not in (right, item.answer)))
        if not (item.answer and wrong):
            lacks = "wrong answers (perturbed_answers; column perturbed_answer)" if item.answer else "answer"
            raise VestigeError(f"{attack} chooses among answers, and forget[{n}] has no {lacks}")
        found.append((right, *wrong))
    return found
