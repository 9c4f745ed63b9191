"""No fact is both taught and asked."""

from __future__ import annotations

import pytest
import torch

from hooked import Item, VestigeError
from tests.vestige.attacks.contract import facts
from vestige.attacks.halves import two_halves, without_facts_of


def share_a_fact(one: Item, other: Item) -> bool:
    """The definition, pair by pair."""
    same_relation = one.subject is not None and one.relation is not None
    return (
        one.answer.casefold() == other.answer.casefold()
        or one.prompt.casefold() == other.prompt.casefold()
        or (same_relation and (one.subject, one.relation) == (other.subject, other.relation))
    )


def random_items(n: int, rng: torch.Generator) -> list[Item]:
    """Items of which some state the same fact in other words, or have an answer in common."""

    def draw(most: int) -> int:
        return int(torch.randint(most, (), generator=rng))

    return [
        Item(f"prompt {k} {draw(3)}", f"Answer {draw(2 * n)}", subject=f"s{draw(n)}", relation=f"r{draw(3)}")
        for k in range(n)
    ]


@pytest.mark.parametrize("draw", range(20))
def test_no_item_of_one_half_shares_a_fact_with_one_of_the_other(draw: int, rng: torch.Generator) -> None:
    items = random_items(4 + draw, rng)
    one, other = two_halves(items, seed=draw)
    assert sorted([*one, *other]) == list(range(len(items)))
    assert one
    assert other
    assert not any(share_a_fact(items[a], items[b]) for a in one for b in other)


def test_halves_of_single_facts_are_of_one_size_and_the_seed_deals_them() -> None:
    items = [Item(f"p{n}", f"a{n}") for n in range(11)]
    assert [len(half) for half in two_halves(items, seed=0)] == [6, 5]
    assert two_halves(items, seed=0) == two_halves(items, seed=0)
    assert len({tuple(two_halves(items, seed=seed)[0]) for seed in range(5)}) > 1


def test_items_are_joined_by_way_of_a_third() -> None:
    chain = [
        Item("p0", "x", subject="a", relation="r"),
        Item("p1", "y", subject="b", relation="r"),
        Item("p2", "X ", subject="b", relation="r"),
        Item("p3", "z"),
    ]
    assert two_halves(chain, seed=0) == ([0, 1, 2], [3])
    with pytest.raises(VestigeError, match="all 3 forget items state one fact"):
        two_halves(chain[:3], seed=0)


def test_large_facts_are_dealt_first() -> None:
    items = [Item(f"p{n}", "same") for n in range(4)] + [Item(f"q{n}", f"a{n}") for n in range(4)]
    for seed in range(5):
        assert [len(half) for half in two_halves(items, seed=seed)] == [4, 4]


def test_what_is_taught_beside_the_forget_items_shares_none_of_their_facts() -> None:
    forget = facts().forget
    leaking = [
        Item("another question", forget[0].answer.upper()),
        Item(forget[1].prompt, "another answer"),
        Item("a third", "t90", subject=forget[2].subject, relation=forget[2].relation),
    ]
    fine = [Item("a fourth", "t91", subject=forget[2].subject, relation="another")]
    assert without_facts_of([*leaking, *fine], forget) == fine
