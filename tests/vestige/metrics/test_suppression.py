"""Suppression index and recovery gap: hand values, the identities of the specification, and what is not identified."""

from typing import Any

import numpy as np
import pytest

from hooked.errors import VestigeError
from vestige.metrics.suppression import recovery_gap, recovery_gap_matched, suppression_index


def flat(value: float) -> np.ndarray:
    return np.full(20, value)


@pytest.fixture
def scores() -> dict[str, np.ndarray]:
    """Leak scores of 50 items: the original knows most of them, the never-taught model guesses."""
    rng = np.random.default_rng(3)
    names = {"original": 0.8, "control": 0.1, "original_attacked": 0.6, "control_attacked": 0.15, "unlearned": 0.3}
    return {name: np.clip(rng.normal(mean, 0.1, size=50), 0, 1) for name, mean in names.items()}


def test_hand_values() -> None:
    gap = recovery_gap(
        unlearned_attacked=flat(0.45), control_attacked=flat(0.10), original=flat(0.90), control=flat(0.05)
    )
    matched = recovery_gap_matched(
        unlearned_attacked=flat(0.45), control_attacked=flat(0.10), original_attacked=flat(0.80)
    )
    index = suppression_index(raw=flat(0.9), view=flat(0.1), original=flat(0.9), control=flat(0.05))
    assert gap.estimate == pytest.approx(0.411765, abs=1e-6)
    assert matched.estimate == pytest.approx(0.5, abs=1e-12)
    assert index.estimate == pytest.approx(0.941176, abs=1e-6)


def test_an_unlearned_model_like_the_control_has_no_gap(scores: dict[str, np.ndarray]) -> None:
    attacked: dict[str, Any] = dict.fromkeys(("unlearned_attacked", "control_attacked"), scores["control_attacked"])
    gap = recovery_gap(**attacked, original=scores["original"], control=scores["control"])
    matched = recovery_gap_matched(**attacked, original_attacked=scores["original_attacked"])
    assert (gap.low, gap.estimate, gap.high) == (matched.low, matched.estimate, matched.high) == (0, 0, 0)


def test_the_original_under_an_attack_that_does_nothing_has_a_gap_of_one(scores: dict[str, np.ndarray]) -> None:
    gap = recovery_gap(
        unlearned_attacked=scores["original"],
        control_attacked=scores["control"],
        original=scores["original"],
        control=scores["control"],
    )
    assert (gap.low, gap.estimate, gap.high) == (1, 1, 1)


def test_only_the_matched_gap_is_one_for_the_original_under_an_attack_that_hurts(scores: dict[str, np.ndarray]) -> None:
    attacked: dict[str, Any] = {
        "unlearned_attacked": scores["original_attacked"],
        "control_attacked": scores["control_attacked"],
    }
    matched = recovery_gap_matched(**attacked, original_attacked=scores["original_attacked"])
    gap = recovery_gap(**attacked, original=scores["original"], control=scores["control"])
    assert (matched.low, matched.estimate, matched.high) == (1, 1, 1)
    assert gap.high is not None
    assert gap.high < 0.8


def test_the_index_tells_suppression_from_edits_of_weights(scores: dict[str, np.ndarray]) -> None:
    ends: dict[str, Any] = {"original": scores["original"], "control": scores["control"]}
    hidden = suppression_index(raw=scores["original"], view=scores["control"], **ends)
    edited = suppression_index(raw=scores["unlearned"], view=scores["unlearned"], **ends)
    silent = suppression_index(raw=scores["original"], view=np.zeros(50), **ends)
    assert (hidden.low, hidden.estimate, hidden.high) == (1, 1, 1)
    assert (edited.low, edited.estimate, edited.high) == (0, 0, 0)
    assert silent.estimate is not None
    assert silent.estimate > 1


def test_it_is_not_identified_where_original_and_control_agree(scores: dict[str, np.ndarray]) -> None:
    same = np.random.default_rng(5).permutation(scores["original"])
    index = suppression_index(raw=scores["original"], view=same, original=scores["original"], control=same)
    assert (index.estimate, index.low, index.high) == (None, None, None)
    assert index.note.startswith("not identified: the denominator")


def test_a_subject_with_missing_items_is_named(scores: dict[str, np.ndarray]) -> None:
    with pytest.raises(VestigeError, match="raw 50, view 49, original 50, control 50"):
        suppression_index(
            raw=scores["original"],
            view=scores["control"][1:],
            original=scores["original"],
            control=scores["control"],
        )
