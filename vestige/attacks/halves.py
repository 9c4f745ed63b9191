"""Two halves of the forget items that share no fact: one to be taught again, the other to be asked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from hooked import Item, VestigeError


def two_halves(items: Sequence[Item], *, seed: int) -> tuple[list[int], list[int]]:
    """Deal items into two halves of about the same size, such that no fact is in both.

    Items state one fact if they have the same answer or prompt, in either wording, or the same subject and relation,
    also by way of a third item. Rows without subject and relation whose answers are sentences of their own cannot be
    told apart: what says one fact twice in other words may then be in both halves.

    Args:
        items: What is dealt.
        seed: Of the order in which facts are dealt.

    Returns:
        The rows of either half, ascending; the first is no smaller.

    Raises:
        VestigeError: All items state one fact.
    """
    facts = _facts(items)
    if len(facts) < 2:
        raise VestigeError(
            f"all {len(items)} forget items state one fact (they share an answer, a prompt, or subject and relation), "
            "so no half can be held out; give more facts, or let the attack learn the facts that it is asked"
        )
    order = torch.randperm(len(facts), generator=torch.Generator().manual_seed(seed)).tolist()
    halves: tuple[list[int], list[int]] = ([], [])
    # Large facts first, or the last of them could fill one side.
    for fact in sorted((facts[i] for i in order), key=len, reverse=True):
        min(halves, key=len).extend(fact)
    large, small = sorted(halves, key=len, reverse=True)
    return sorted(large), sorted(small)


def without_facts_of(items: Sequence[Item], others: Sequence[Item]) -> list[Item]:
    """Return the items that share no mark of a fact with any of the others."""
    taken = {mark for item in others for mark in _marks(item)}
    return [item for item in items if taken.isdisjoint(_marks(item))]


def _marks(item: Item) -> Iterator[tuple[str, ...]]:
    """Yield what tells a fact; items with a mark in common state the same one."""
    for answer in filter(None, (item.answer, item.paraphrased_answer)):
        yield "answer", _plain(answer)
    for prompt in filter(None, (item.prompt, item.paraphrased_prompt)):
        yield "prompt", _plain(prompt)
    if item.subject is not None and item.relation is not None:
        yield "fact", _plain(item.subject), _plain(item.relation)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _facts(items: Sequence[Item]) -> list[list[int]]:
    """Collect the rows of each fact, in order of first appearance."""
    facts: list[tuple[set[tuple[str, ...]], list[int]]] = []
    for row, item in enumerate(items):
        marks, rows = set(_marks(item)), [row]
        joined = [fact for fact in facts if not fact[0].isdisjoint(marks)]
        for fact in joined:
            marks |= fact[0]
            rows += fact[1]
            facts.remove(fact)
        facts.append((marks, rows))
    return sorted((sorted(rows) for _, rows in facts), key=lambda rows: rows[0])
