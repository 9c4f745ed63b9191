"""Answers that are wrong: those that items list, or those of other items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch

from hooked import Item, VestigeError

Wrong = Literal["perturbed", "exchanged"]


def false_answers(
    items: Sequence[Item],
    others: Sequence[Item] = (),
    *,
    method: str,
    seed: int,
    wrong: Wrong | None = None,
    every: bool = False,
) -> tuple[Item, ...]:
    """Return items with a false answer each.

    An item and its twin in other words, with prompt and paraphrased prompt exchanged, get the same one.

    Args:
        items: With an answer.
        others: Further items whose answers may be exchanged.
        method: Who asks, for the message.
        seed: Of the draws.
        wrong: `perturbed` takes `perturbed_answers` of the item itself, `exchanged` the answer of another item, of the
            same relation where there are any. When not given, perturbed ones for items that have some.
        every: Return an item for each of its perturbed answers instead of drawing one.

    Raises:
        VestigeError: An item has no false answer, or `wrong` is neither.
    """
    if wrong is not None and wrong not in get_args(Wrong):
        raise VestigeError(f"wrong is 'perturbed' or 'exchanged', got {wrong!r}")
    generator = torch.Generator().manual_seed(seed)
    pool = [item for item in (*items, *others) if not (item.is_document or item.generation_only)]
    drawn: dict[tuple[frozenset[str | None], str], list[str]] = {}
    for i, item in enumerate(items):
        listed = perturbed(item) if wrong != "exchanged" else []
        offered = listed or ([] if wrong == "perturbed" else _exchanged(item, pool))
        if not offered:
            has = "no perturbed_answers" if wrong == "perturbed" else "the only answer there is"
            raise VestigeError(f"{method} needs a false answer for item {i}, and it has {has}")
        if _question(item) not in drawn:
            which = int(torch.randint(len(offered), (1,), generator=generator))
            drawn[_question(item)] = listed if every and listed else [offered[which]]
    return tuple(replace(item, answer=answer) for item in items for answer in drawn[_question(item)])


def perturbed(item: Item) -> list[str]:
    """Return the perturbed answers of an item that differ from its own."""
    return [answer for answer in item.perturbed_answers if answer.strip() and _differs(answer, item)]


def _exchanged(item: Item, pool: Sequence[Item]) -> list[str]:
    same = [other for other in pool if item.relation is not None and other.relation == item.relation]
    for candidates in (same, pool):
        found = dict.fromkeys(other.answer for other in candidates if _differs(other.answer, item))
        if found:
            return list(found)
    return []


def _differs(answer: str, item: Item) -> bool:
    return answer.strip().casefold() != item.answer.strip().casefold()


def _question(item: Item) -> tuple[frozenset[str | None], str]:
    return frozenset((item.prompt, item.paraphrased_prompt)), item.answer
