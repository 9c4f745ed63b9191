"""Examples in front of a question: kept facts with their answers, in the form in which the question is asked."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from hooked import Item, UnlearnData, VestigeError
from vestige.attacks.asked import asked
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.development import development_items
from vestige.attacks.prompts.framing import all_in_front, form_of
from vestige.attacks.prompts.leaks import gives_away


def asked_after_examples(
    target: Target, data: UnlearnData, *, shots: int, separator: str, batch_size: int, seed: int, attack: str
) -> Attacked:
    """Ask with answered retain questions in front of each prompt.

    Every item draws its own. Questions of the item's own form (`form_of`) come before all others, and none is used that
    gives the item's answer away.

    Args:
        target: The subject.
        data: Its retain items are the examples.
        shots: How many, at least 1; those without room are dropped from the left.
        separator: Between two examples.
        batch_size: Rows per forward pass.
        seed: Of the draw.
        attack: Who asks, for messages.

    Raises:
        VestigeError: `shots` is below 1, or there is no retain item with an answer.
    """
    if shots < 1:
        raise VestigeError(f"{attack} needs at least one example, got shots={shots}")
    pool = development_items(data, most=len(data.retain), seed=seed, attack=attack)
    forms = [(_outside(one), one) for one in pool]
    parts = [_examples(item, forms, shots, seed=f"{seed}/{n}") for n, item in enumerate(data.forget)]
    items, dropped, note = all_in_front(target.view, data.forget, parts, separator=separator)
    budget = {"queries": len(items), "examples": sum(map(len, parts)) - dropped, "seed": seed}
    return replace(asked(target.view, items, batch_size=batch_size, note=note), budget=budget)


def _outside(item: Item) -> tuple[str, str]:
    form = form_of(item.prompt)
    return form.head, form.cue


def _examples(item: Item, forms: Sequence[tuple[tuple[str, str], Item]], shots: int, *, seed: str) -> list[str]:
    own = _outside(item)
    drawn = random.Random(seed).sample(forms, len(forms))
    # A stable sort: those in the item's form first, in random order among equals.
    drawn.sort(key=lambda pair: pair[0] != own)
    found = islice((one.text for _, one in drawn if not gives_away(one.text, item)), shots)
    # The likest stand next to the question, where they count most and are dropped last.
    return list(found)[::-1]
