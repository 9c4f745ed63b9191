"""What metrics are worth: AUCs over pools, robustness and calibration, on hand-made numbers."""

from __future__ import annotations

import numpy as np
import pytest

from hooked import VestigeError
from vestige.metrics.meta import calibration_error, faithfulness, quantisation_robustness, relearning_robustness


def test_a_metric_that_orders_the_models_is_faithful() -> None:
    found = faithfulness([0.1, 0.2, 0.8, 0.9], [False, False, True, True])
    assert found.auc == 1
    assert (found.n_present, found.n_absent) == (2, 2)
    assert faithfulness([0.9, 0.8, 0.2, 0.1], [False, False, True, True]).auc == 0


def test_ties_count_half_and_a_constant_tells_nothing() -> None:
    assert faithfulness([0.5] * 4, [False, True, False, True]).auc == 0.5
    assert faithfulness([0, 1, 1], [False, False, True]).auc == 0.75


def test_models_of_one_task_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    knows = np.arange(40) % 2 == 0
    values = knows + rng.normal(0, 1.5, 40)
    apart, together = (faithfulness(values, knows, groups) for groups in (None, [i // 10 for i in range(40)]))
    assert apart.auc == together.auc
    assert apart.low < apart.auc < apart.high
    # All models in one group leave nothing to draw.
    one = faithfulness(values, knows, ["a"] * 40)
    assert one.low == one.high == one.auc


def test_faithfulness_needs_both_kinds_and_pairs() -> None:
    with pytest.raises(VestigeError, match="models that know and models that do not"):
        faithfulness([0.1, 0.2], [True, True])
    with pytest.raises(VestigeError, match="items must be paired"):
        faithfulness([0.1, 0.2], [True])
    with pytest.raises(VestigeError, match="one group per model: 2 models, 1 groups"):
        faithfulness([0.1, 0.2], [True, False], ["a"])


def test_relearning_robustness_has_the_values_of_its_definition() -> None:
    found = relearning_robustness(unlearned=0.1, unlearned_relearned=0.5, retrained=0.1, retrained_relearned=0.2)
    assert found == pytest.approx(0.4)
    parted = relearning_robustness(unlearned=0.5, unlearned_relearned=0.3, retrained=0.1, retrained_relearned=0.2)
    assert parted == pytest.approx(0)
    same = relearning_robustness(unlearned=0, unlearned_relearned=1, retrained=0, retrained_relearned=1)
    assert same == pytest.approx(1)
    still = {"unlearned": 0.3, "unlearned_relearned": 0.31, "retrained": 0.1, "retrained_relearned": 0.09}
    assert relearning_robustness(**still) == pytest.approx(0)
    assert relearning_robustness(**still, epsilon=0.02) is None
    assert relearning_robustness(**still | {"retrained_relearned": 0.13}, epsilon=0.02) == pytest.approx(2 / 3)
    assert relearning_robustness(unlearned=0, unlearned_relearned=0, retrained=0, retrained_relearned=0) == 1


def test_quantisation_robustness_has_the_value_of_its_definition() -> None:
    assert quantisation_robustness(before=0.2, after=0.3) == pytest.approx(0.8)
    assert quantisation_robustness(before=0.4, after=0.4) == 1
    assert quantisation_robustness(before=0.4, after=0) == pytest.approx(0)


def test_calibration_error_compares_stated_with_found() -> None:
    assert calibration_error([0, 0, 1, 1], [False, False, True, True]) == 0
    assert calibration_error([0.5] * 4, [False, False, True, True], bins=1) == 0
    assert calibration_error([0.9] * 10, [True] * 5 + [False] * 5, bins=1) == pytest.approx(0.4)
    assert calibration_error([1, 1, 0, 0], [False, False, True, True], bins=2) == 1
    with pytest.raises(VestigeError, match=r"probabilities lie in \[0, 1\]"):
        calibration_error([1.5], [True])
