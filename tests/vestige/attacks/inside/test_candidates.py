"""Lists of exactly B: differences, ranks, ties, and the floor."""

import pytest
import torch

from hooked import VestigeError
from vestige.attacks.inside.candidates import Ranking, differences, hits, permutation_floor

D = torch.tensor([[0.5, 0.3, 0.2], [0.2, 0.5, 0.3], [0.1, 0.2, 0.7]], dtype=torch.float64)


def first(*rows: list[float], budget: int, both_ends: bool = False) -> list[int]:
    ranking = Ranking(both_ends=both_ends)
    for row in rows:
        ranking.add(torch.tensor([row], dtype=torch.float64))
    return ranking.first(budget)[0].tolist()


def test_differences_by_hand() -> None:
    assert torch.equal(torch.stack(list(differences(D, 0))), D)
    once = torch.stack(list(differences(D, 1)))
    assert once.numpy() == pytest.approx(torch.tensor([[-0.3, 0.2, 0.1], [-0.1, -0.3, 0.4]]).numpy(), abs=1e-7)
    (twice,) = differences(D, 2)
    assert twice.tolist() == pytest.approx([0.2, -0.5, 0.3])
    assert list(differences(D[:1], 2)) == []


def test_differences_of_every_order_are_those_of_torch(rng: torch.Generator) -> None:
    rows = torch.randn(6, 4, generator=rng)
    for order in range(3):
        torch.testing.assert_close(torch.stack(list(differences(rows, order))), rows.diff(n=order, dim=0))


def test_tokens_come_by_their_best_rank_over_blocks() -> None:
    assert first([0.5, 0.3, 0.2], budget=3) == [0, 1, 2]
    # Token 2 leads the second block, by more than token 0 leads the first.
    assert first([0.5, 0.3, 0.2], [0.1, 0.2, 0.7], budget=2) == [2, 0]


def test_both_ends_count_where_a_fall_is_as_suspicious_as_a_rise() -> None:
    assert first([-0.9, 0.1, 0.0, 0.8], budget=2, both_ends=True) == [0, 3]
    assert first([-0.9, 0.1, 0.0, 0.8], budget=2) == [3, 1]


def test_ties_go_by_value_then_by_id_and_the_list_has_exactly_b() -> None:
    assert first([0.4, 0.4, 0.2], [0.1, 0.6, 0.3], budget=2) == [1, 0]
    assert first([1.0] * 5, budget=3) == [0, 1, 2]
    for budget in range(1, 6):
        assert len(set(first([0.3, 0.1, 0.3, 0.2, 0.1], [0.0, 0.5, 0.5, 0.0, 0.0], budget=budget))) == budget


def test_a_longer_list_begins_with_the_shorter(rng: torch.Generator) -> None:
    rows = torch.randn(3, 12, generator=rng).tolist()
    assert first(*rows, budget=8, both_ends=True)[:3] == first(*rows, budget=3, both_ends=True)


def test_lists_that_are_alike_hit_as_often_as_their_floor() -> None:
    candidates, targets = torch.tensor([[1, 2]] * 6), torch.tensor([1, 2, 3, 4, 1, 5])
    assert hits(candidates, targets).tolist() == [True, True, False, False, True, False]
    assert permutation_floor(candidates, targets, seed=0) == (pytest.approx(0.5), pytest.approx(0.5))


def test_skewed_answers_lift_the_floor_far_above_b_over_v(rng: torch.Generator) -> None:
    # Targets and candidates of one Zipf distribution over 191 tokens, 8 candidates: chance is 0.042 by count.
    weights = 1 / torch.arange(1.0, 192)
    targets = torch.multinomial(weights, 400, replacement=True, generator=rng)
    candidates = torch.stack([torch.multinomial(weights, 8, generator=rng) for _ in range(400)])
    rate = float(hits(candidates, targets).double().mean())
    floor = permutation_floor(candidates, targets, seed=0)
    assert floor is not None
    assert rate > 5 * 8 / 191
    assert floor[0] == pytest.approx(rate, abs=0.06)
    assert floor[0] <= floor[1]


def test_one_item_has_nothing_to_exchange_and_few_permutations_are_no_floor() -> None:
    one = torch.tensor([[1]]), torch.tensor([1])
    assert permutation_floor(*one, seed=0) is None
    with pytest.raises(VestigeError, match="at least 20 permutations, got 19"):
        permutation_floor(*one, permutations=19, seed=0)
    with pytest.raises(VestigeError, match="no block was read"):
        Ranking(both_ends=False).first(1)
