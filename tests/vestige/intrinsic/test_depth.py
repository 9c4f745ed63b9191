"""The depth score by hand: the spec's value, the two ends, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest

from hooked import VestigeError
from vestige.intrinsic.depth import depth


def test_the_value_of_the_specification() -> None:
    found = depth(np.array([[0.01], [0.2], [0.5], [1.0]]), np.array([[0.3], [0.1], [0.6], [0.25]]))
    assert found.scores == pytest.approx([0.5])
    # Per block: not carried, half, all of it and no more, a quarter.
    assert found.layers[1:] == pytest.approx([0.5, 1.0, 0.25])
    assert np.isnan(found.layers[0])
    assert found.estimate == pytest.approx(0.5)


def test_no_fall_is_nothing_erased_and_the_same_fall_is_all() -> None:
    falls = np.random.default_rng(0).normal(1.0, 1.0, (6, 9))
    assert (depth(falls, np.zeros_like(falls)).scores == 0).all()
    assert (depth(falls, falls).scores == 1).all()
    assert (depth(falls, falls).measured == 1).all()


def test_blocks_at_which_patching_helped_count_nothing() -> None:
    below = depth(np.array([[-0.4], [0.5]]), np.array([[9.0], [0.25]]))
    assert below.scores == pytest.approx([0.5])
    assert np.isnan(below.layers[0])


def test_a_fall_of_exactly_tau_is_not_enough() -> None:
    assert depth([[0.05]], [[1.0]]).skipped == 1
    assert depth([[0.05]], [[1.0]], tau=0.04).scores == pytest.approx([1.0])


def test_helping_is_no_negative_score_and_harm_beyond_the_retrained_is_no_credit() -> None:
    assert depth([[1.0], [1.0]], [[-3.0], [3.0]]).scores == pytest.approx([0.5])


def test_items_without_a_carrying_block_are_skipped_and_counted() -> None:
    found = depth([[0.0, 1.0, np.nan], [0.01, 1.0, np.nan]], [[5.0, 0.5, np.nan], [5.0, 0.0, np.nan]])
    assert found.skipped == 2
    assert found.measured == pytest.approx([0.25])
    assert depth([[0.0]], [[1.0]]).estimate is None


def test_blocks_weigh_items_by_what_they_carried() -> None:
    assert depth([[3.0, 1.0]], [[3.0, 0.0]]).layers == pytest.approx([0.75])
    assert depth([[3.0, 1.0]], [[3.0, 0.0]]).estimate == pytest.approx(0.5)


def test_epsilon_lowers_the_ratio_by_as_little_as_it_says() -> None:
    assert depth([[1.0]], [[1.0]], epsilon=1e-8).scores == pytest.approx([1.0], abs=2e-8)


def test_refusals() -> None:
    with pytest.raises(VestigeError, match="items must be paired"):
        depth([[1.0], [1.0]], [[1.0]])
    with pytest.raises(VestigeError, match="items must be paired"):
        depth([[1.0, 1.0]], [[1.0]])
    with pytest.raises(VestigeError, match="unlearned has nan at item 1, 0"):
        depth([[1.0], [1.0]], [[1.0], [np.nan]])
