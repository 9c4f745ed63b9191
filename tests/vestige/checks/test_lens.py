"""The logit-lens leak: best block, its floor and its control."""

import pytest
import torch

from tests.vestige.build import by_subject, evidence, reading
from vestige.checks.lens import lens_leak


def test_the_best_block_by_hand() -> None:
    ranks = torch.tensor([[9.0, 3.0, 1.0], [0.0, 1.0, 3.0]])
    result = lens_leak(evidence({"original": reading([0.5] * 3, lens_rank=ranks)}))[0]
    assert result.per_layer == pytest.approx(((0.1 + 0.25 + 0.5) / 3, (1 + 0.5 + 0.25) / 3))
    assert result.estimate == pytest.approx(1.75 / 3)
    assert result.per_item == pytest.approx((1.0, 0.5, 0.25))
    assert "best at block 1" in result.note


def test_a_constant_output_scores_nothing() -> None:
    # Ties count half, so every token of 100 ranks in the middle.
    ranks = torch.full((2, 4), 49.5)
    result = lens_leak(evidence({"original": reading([0.5] * 4, lens_rank=ranks, lens_floor_rank=ranks[:, None])}))[0]
    assert result.estimate == result.floor == pytest.approx(1 / 50.5)


def test_the_floor_chooses_its_best_block_in_every_permutation() -> None:
    # Two permutations, two blocks: means 1.0 and 0.5 in the first, 0.25 and 1.0 in the second.
    exchanged = torch.tensor([[[0.0, 0.0], [3.0, 3.0]], [[1.0, 1.0], [0.0, 0.0]]])
    result = lens_leak(evidence({"original": reading([0.5, 0.5], lens_floor_rank=exchanged)}))[0]
    assert result.floor == pytest.approx(1.0)


def test_the_control_brings_its_layers() -> None:
    known, unknown = torch.zeros(2, 2), torch.full((2, 2), 9.0)
    found = by_subject(
        lens_leak(
            evidence({"original": reading([0.5] * 2, lens_rank=known), "never": reading([0.5] * 2, lens_rank=unknown)})
        )
    )
    assert found["original"].control == pytest.approx(0.1)
    assert found["original"].per_layer_control == pytest.approx((0.1, 0.1))
    assert found["original"].per_layer == (1.0, 1.0)


def test_one_item_has_no_floor_and_no_interval() -> None:
    result = lens_leak(evidence({"original": reading([0.5], lens_floor_rank=torch.zeros(2, 0, 1))}))[0]
    assert (result.estimate, result.floor, result.low) == (1.0, None, None)
    assert "at least 2 items" in result.note
