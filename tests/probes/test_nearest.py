"""Nearest neighbours by hand: who votes, how ties end, what shuffled labels score."""

from __future__ import annotations

import pytest
import torch

from hooked import VestigeError
from probes.nearest import nearest_neighbours


def planted(rng: torch.Generator, *, strength: float, n: int = 60, kinds: int = 3) -> tuple[torch.Tensor, list[int]]:
    labels = [i % kinds for i in range(n)]
    axes = torch.randn(kinds, 16, generator=rng)
    return strength * axes[labels] + torch.randn(n, 16, generator=rng), labels


def test_kinds_that_lie_together_are_found_and_others_are_chance(rng: torch.Generator) -> None:
    acts, labels = planted(rng, strength=2.0)
    found = nearest_neighbours(acts, labels, groups=range(60))
    assert found.accuracy > 0.9
    assert found.shuffled == pytest.approx(1 / 3, abs=0.1) == found.majority
    assert found.shuffled <= found.shuffled_high < 0.6
    none, labels = planted(rng, strength=0.0)
    assert nearest_neighbours(none, labels, groups=range(60)).accuracy == pytest.approx(1 / 3, abs=0.2)


def test_rows_of_one_group_do_not_vote_for_each_other(rng: torch.Generator) -> None:
    # Every item occurs twice, next to itself; labels are random, so only the twin could know.
    acts = torch.randn(40, 16, generator=rng).repeat_interleave(2, 0)
    labels = torch.randint(0, 2, (40,), generator=rng).repeat_interleave(2)
    twins = [i // 2 for i in range(80)]
    assert nearest_neighbours(acts, labels, groups=range(80), k=1).accuracy == 1.0
    assert nearest_neighbours(acts, labels, groups=twins, k=1).accuracy == pytest.approx(0.5, abs=0.25)


def test_nearness_is_the_cosine_from_the_common_mean() -> None:
    # Two rays from the middle; the far rows of one ray are nearer to the other ray in distance, not in direction.
    acts = torch.tensor([[1.0, 0.1], [9.0, 0.3], [1.2, 0.1], [-1.0, 0.1], [-9.0, 0.3], [-1.2, 0.1]])
    for moved in (acts, acts * 7, acts + 100):
        found = nearest_neighbours(moved, ["a", "a", "a", "b", "b", "b"], groups=range(6), k=2)
        assert found.right.all()


def test_of_equal_votes_the_nearer_wins() -> None:
    angle = torch.tensor([0.0, 0.1, 0.2, 3.1])
    acts = torch.stack([angle.cos(), angle.sin()], 1)
    found = nearest_neighbours(acts - acts.mean(0), ["a", "a", "b", "b"], groups=range(4), k=2)
    # The voters of row 0 are rows 1 (a) and 2 (b).
    assert bool(found.right[0])


def test_a_seed_decides_the_shuffles(rng: torch.Generator) -> None:
    acts, labels = planted(rng, strength=0.5)
    one, two = (nearest_neighbours(acts, labels, groups=range(60), seed=s).shuffled for s in (1, 1))
    assert one == two != nearest_neighbours(acts, labels, groups=range(60), seed=2).shuffled


def test_refusals(rng: torch.Generator) -> None:
    acts, labels = planted(rng, strength=1.0, n=6)
    with pytest.raises(VestigeError, match="5 neighbours of other groups are needed, but row 0 has 3"):
        nearest_neighbours(acts, labels, groups=[0, 0, 0, 1, 1, 1])
    with pytest.raises(VestigeError, match="k and draws of at least 1, got k=0 and draws=20"):
        nearest_neighbours(acts, labels, groups=range(6), k=0)
    with pytest.raises(VestigeError, match="at least two classes"):
        nearest_neighbours(acts, [1] * 6, groups=range(6))
