"""Which tokens stay: the kept sets of the rule, its floor of one token, and what becomes of the others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hooked import VestigeError
from interventions.decoding.plausible import DROPPED, Plausible, drop

PROBABILITIES = torch.tensor([0.6, 0.25, 0.1, 0.04, 0.01], dtype=torch.float64)


@pytest.mark.parametrize(("ratio", "kept"), [(0.4, 2), (0.2, 2), (0.1, 3), (1.0, 5)])
def test_the_kept_sets_of_the_paper_s_rule(ratio: float, kept: int) -> None:
    assert Plausible(ratio, rank=True).keep(PROBABILITIES.flip(0).log()).sum() == kept
    assert Plausible(ratio, rank=True).keep(PROBABILITIES.log()).tolist() == [True] * kept + [False] * (5 - kept)


def test_without_ranks_only_the_ratio_counts() -> None:
    assert Plausible(1.0).keep(PROBABILITIES.log()).tolist() == [True, False, False, False, False]
    assert Plausible(0.4).keep(PROBABILITIES.log()).tolist() == [True, True, False, False, False]


def test_a_vocabulary_smaller_than_one_over_the_ratio_still_drops_tokens(rng: torch.Generator) -> None:
    """The release takes the zeroth largest value there, which is the smallest, and keeps everything."""
    logits = 8 * torch.randn(20, 50, generator=rng, dtype=torch.float64)
    log_probs = logits.log_softmax(-1)
    kept = Plausible(0.01, rank=True).keep(log_probs)
    assert torch.equal(kept, log_probs >= log_probs.amax(-1, keepdim=True) + torch.tensor(0.01).double().log())
    assert (~kept).any(-1).all()
    assert kept.any(-1).all()


@pytest.mark.parametrize(("size", "ratio", "least"), [(50, 0.01, 1), (100, 0.29, 29), (50, 0.1, 5), (50, 0.11, 5)])
def test_at_least_that_many_of_the_likeliest_stay(size: int, ratio: float, least: int) -> None:
    steep = -100.0 * torch.arange(size, dtype=torch.float64)
    kept = Plausible(ratio, rank=True).keep(steep.log_softmax(-1))
    assert kept.tolist() == [True] * least + [False] * (size - least)


@pytest.mark.parametrize("scores", [torch.tensor([-5.0, -7.0, 1e4]), torch.tensor([-900.0, 900.0, 0.0])])
def test_a_dropped_token_is_below_every_kept_one_even_if_all_of_those_are_negative(scores: Tensor) -> None:
    """The release multiplies by the mask, so that a dropped token scores 0 and beats negative ones."""
    kept = torch.tensor([True, True, False])
    result = drop(scores, kept)
    assert torch.equal(result[kept], scores[kept])
    assert result[2] == scores[kept].min() - DROPPED
    assert torch.isfinite(result.log_softmax(-1)).all()
    assert result.softmax(-1)[2] == 0


def test_dropping_edits_nothing_in_place() -> None:
    scores = torch.tensor([3.0, 2.0])
    drop(scores, torch.tensor([True, False]))
    assert scores.tolist() == [3, 2]


@pytest.mark.parametrize("ratio", [0.0, -1.0, 1.5, float("nan")])
def test_a_cutoff_is_a_fraction(ratio: float) -> None:
    with pytest.raises(VestigeError, match="a cutoff is a fraction above 0 and at most 1, got"):
        Plausible(ratio)
