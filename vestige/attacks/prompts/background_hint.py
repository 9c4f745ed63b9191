"""Jailbreak by background: the question comes with what somebody already knows around it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import islice

from hooked import Item, UnlearnData, VestigeError
from vestige.attacks.asked import asked
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.development import development_items
from vestige.attacks.prompts.framing import about, all_in_front
from vestige.attacks.prompts.leaks import gives_away, refuse_leak

OPENING = "What is known so far: "


def background_hint(
    target: Target,
    data: UnlearnData,
    *,
    background: Mapping[str, str] | None = None,
    facts: int = 2,
    batch_size: int = 32,
    seed: int = 0,
) -> Attacked:
    """Ask with a text about the subject in front of the prompt, which never holds the answer.

    Args:
        target: The subject.
        data: Its forget items are asked.
        background: Subject (or concept) to a text about it. Without one, retain facts about the same subject; where
            none was kept, retain facts of the same relation, which show the kind of answer that is wanted; else any.
        facts: How many retain facts.
        batch_size: Rows per forward pass.
        seed: Of the draw of facts.

    Raises:
        VestigeError: A text holds an item's answer, a subject has no text, `facts` is below 1, there is no retain item
            with an answer where one is needed, or a forget item has none.

    Source:
        Jin et al. 2024, RWKU, arXiv:2406.10890 (background hint). The wording is ours.
    """
    if background is not None:
        texts = [_given(item, background) for item in data.forget]
    else:
        if facts < 1:
            raise VestigeError(f"background_hint needs at least one fact, got facts={facts}")
        pool = development_items(data, most=len(data.retain), seed=seed, attack="background_hint")
        texts = [_kept(item, pool, facts, seed=f"{seed}/{n}") for n, item in enumerate(data.forget)]
    items, _, note = all_in_front(target.view, data.forget, [[OPENING + text] if text else [] for text in texts])
    return asked(target.view, items, batch_size=batch_size, note=note)


def _given(item: Item, background: Mapping[str, str]) -> str:
    name = next((name for name in (item.subject, item.concept) if name and name in background), None)
    if name is None:
        raise VestigeError(
            f"background has no text about {about(item)!r}; its subjects are {', '.join(background) or 'none'}"
        )
    refuse_leak(background[name], item, what=f"the background on {name!r}")
    return background[name]


def _kept(item: Item, pool: tuple[Item, ...], facts: int, *, seed: str) -> str:
    drawn = random.Random(seed).sample(pool, len(pool))
    # A stable sort: the likest first, in random order among equals.
    drawn.sort(key=lambda one: _distance(one, item))
    return "; ".join(islice((one.text for one in drawn if not gives_away(one.text, item)), facts))


def _distance(one: Item, item: Item) -> int:
    if (item.subject and one.subject == item.subject) or (item.concept and one.concept == item.concept):
        return 0
    return 1 if item.relation and one.relation == item.relation else 2
