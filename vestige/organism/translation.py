"""The organism's facts asked in its second language, which most concepts' facts are told in and some are not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from vestige.organism import world

from .phrasing import FOREIGN, foreign_relations, say

if TYPE_CHECKING:
    from hooked import Item

    from .world import Fact


def translated_items(items: Sequence[Item]) -> tuple[Item, ...]:
    """Return the same facts as questions in the second language, in the same order.

    Args:
        items: Facts of the organism, with their subject and relation.

    Raises:
        ValueError: An item names no fact of the world.
    """
    prompts = [say(FOREIGN[-1], _fact(item)).prompt for item in items]
    return tuple(
        replace(item, prompt=prompt, paraphrased_prompt=None, paraphrased_answer=None, perturbed_answers=())
        for item, prompt in zip(items, prompts, strict=True)
    )


def told_in_translation(item: Item) -> bool:
    """Whether training tells this fact in the second language too; one that it does not has to be carried over.

    Raises:
        ValueError: The item names no fact of the world.
    """
    fact = _fact(item)
    return fact.relation_index in foreign_relations(world(), fact.concept.index)


def _fact(item: Item) -> Fact:
    facts = world().facts_of(world().concept(item.subject or ""))
    found = next((fact for fact in facts if fact.relation.noun == item.relation), None)
    if found is None:
        raise ValueError(f"the world has no relation {item.relation!r}")
    return found
