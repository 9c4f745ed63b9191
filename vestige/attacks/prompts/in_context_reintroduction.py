"""UnUnlearning: what was forgotten is brought back by what stands in the prompt."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch

from hooked import Item, UnlearnData, VestigeError
from probes import answer_probability
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.prompts.framing import SEPARATOR, about, all_in_front, noted
from vestige.attacks.prompts.leaks import gives_away, refuse_leak


def in_context_reintroduction(
    target: Target,
    data: UnlearnData,
    *,
    levels: Sequence[int] = (0, 1, 2, 4),
    clues: Mapping[str, Sequence[str]] | None = None,
    separator: str = SEPARATOR,
    batch_size: int = 32,
    seed: int = 0,
) -> Attacked:
    """Ask with more and more clues in front of the prompt, none of which holds the answer, and at last with the answer.

    `scores` are the means over the levels with clues and without the answer. The curve has every level; its last entry,
    one above the highest level, is the full text, in which the fact itself stands last, behind all clues that have
    room. Success there is no knowledge left behind: a model that never learned the fact has it too, if it can use a
    context at all. What a subject scores above the never-taught one at the levels before is.

    Args:
        target: The subject.
        data: Its forget items are asked.
        levels: Numbers of clues, rising. An item with fewer clues gets all of them, and the note says so.
        clues: Subject (or concept) to facts about it; those that hold an item's answer are not allowed. Without any,
            the other forget items of the same subject (or concept), with those that hold the answer left out.
        separator: Between two clues.
        batch_size: Rows per forward pass.
        seed: Of the order of the clues; each level keeps those of the level before.

    Raises:
        VestigeError: The levels do not rise from 0 or more or have none above 0; an item has no clue or no answer; or a
            given clue holds the answer.

    Source:
        Shumailov et al. 2024, arXiv:2407.00106, for the argument; levels and curve are ours.
    """
    steps = [int(level) for level in levels]
    if not steps or steps[-1] < 1 or steps[0] < 0 or any(one >= other for one, other in pairwise(steps)):
        raise VestigeError(f"levels are rising numbers of clues with one above 0 at least, got {list(levels)}")
    chosen = [_clues(item, data, clues, seed=f"{seed}/{n}") for n, item in enumerate(data.forget)]
    # The last clues are kept longest, here and where positions run out.
    shown = [[own[max(0, len(own) - level) :] for own in chosen] for level in steps]
    shown.append([[*own, item.text] for own, item in zip(chosen, data.forget, strict=True)])
    asked = [_asked(target, data, texts, separator, batch_size) for texts in shown]
    partial = torch.stack([one.scores for one, level in zip(asked, steps, strict=False) if level > 0])
    means = [float(one.scores.mean()) for one in asked]
    short = sum(len(own) < steps[-1] for own in chosen)
    notes = [
        f"area under the curve to {steps[-1]} clues {_area(steps, means):.3g}, with the answer in the text "
        f"{means[-1]:.3g}",
        f"{short} of {len(chosen)} items have fewer than {steps[-1]} clues" if short else "",
        f"{asked[-2].dropped} clues had no room at the highest level" if asked[-2].dropped else "",
    ]
    return Attacked(
        tuple(partial.mean(0).tolist()),
        curve=dict(zip([*steps, steps[-1] + 1], means, strict=True)),
        budget={"queries": len(data.forget) * len(shown), "levels": [*steps, "full"], "seed": seed},
        note=noted(*notes),
    )


@dataclass(frozen=True)
class _Level:
    scores: torch.Tensor
    dropped: int


def _asked(
    target: Target, data: UnlearnData, texts: Sequence[Sequence[str]], separator: str, batch_size: int
) -> _Level:
    items, dropped, _ = all_in_front(target.view, data.forget, texts, separator=separator)
    return _Level(answer_probability(target.view, items, batch_size=batch_size), dropped)


def _clues(item: Item, data: UnlearnData, given: Mapping[str, Sequence[str]] | None, *, seed: str) -> list[str]:
    if given is None:
        named = [name for name in ("subject", "concept") if getattr(item, name)]
        near = ([o for o in data.forget if getattr(o, name) == getattr(item, name)] for name in named)
        texts = next((t for others in near if (t := [o.text for o in others if not gives_away(o.text, item)])), [])
        remedy = "give clues=, or rows with the subject of more than one fact"
    else:
        texts = list(next((given[name] for name in (item.subject, item.concept) if name and name in given), ()))
        for text in texts:
            refuse_leak(text, item, what="a clue")
        remedy = f"clues has subjects {', '.join(given) or 'none'}"
    if not texts:
        raise VestigeError(f"no clue about {about(item)!r} without the answer to {item.prompt[-60:]!r}; {remedy}")
    unique = list(dict.fromkeys(texts))
    return random.Random(seed).sample(unique, len(unique))


def _area(steps: Sequence[int], means: Sequence[float]) -> float:
    """Return the area under a curve by trapezoids, as a mean height."""
    if len(steps) == 1:
        return means[0]
    pairs = zip(pairwise(steps), pairwise(means), strict=False)
    return sum((b - a) * (y + z) / 2 for (a, b), (y, z) in pairs) / (steps[-1] - steps[0])
