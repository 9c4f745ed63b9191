"""Format shift: no free answer but a choice; which of several answers is the likeliest?"""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean

from hooked import UnlearnData
from probes import answer_probability
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.prompts.options import options_of


def forced_choice(target: Target, data: UnlearnData, *, batch_size: int = 32, seed: int = 0) -> Attacked:
    """Compare the answer with the wrong ones after the same prompt: `P(right) / (P(right) + sum P(wrong))`.

    P is the length-normalised probability. A model that has become unlikely to say any answer can still prefer one. One
    that never learned the fact may score below the floor: wrong answers are often right ones of other questions, which
    it knows and says sooner.

    Args:
        target: The subject.
        data: Its forget items are asked, with their `perturbed_answers`; a paraphrased answer, which is in the style of
            those, stands for the plain one.
        batch_size: Rows per forward pass.
        seed: Nothing is drawn here.

    Raises:
        VestigeError: An item has no answer or no wrong one.

    Source:
        Maini et al. 2024, TOFU, arXiv:2401.06121 (probability of real authors and world facts).
    """
    options = options_of(data.forget, attack="forced_choice")
    rows = [replace(item, answer=text) for item, texts in zip(data.forget, options, strict=True) for text in texts]
    found = iter(answer_probability(target.view, rows, batch_size=batch_size).tolist())
    scores = []
    for texts in options:
        right, *wrong = (next(found) for _ in texts)
        total = right + sum(wrong)
        scores.append(right / total if total else 1 / len(texts))
    floor = fmean(1 / len(texts) for texts in options)
    return Attacked(tuple(scores), "choice", floor=floor, budget={"queries": len(rows)})
