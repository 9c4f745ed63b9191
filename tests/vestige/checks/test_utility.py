"""Model utility: its parts, its interval, its zeros."""

import numpy as np
import pytest

from hooked import Item, UnlearnData
from tests.vestige.build import by_subject, evidence, reading, split
from vestige.checks.utility import model_utility

KEPT = (Item("r0", "red fox"), Item("r1", "blue whale"))
DATA = UnlearnData((Item("f", "x"),), KEPT, (), (Item("c", "seven"),))


def harmonic(*values: float) -> float:
    return len(values) / sum(1 / value for value in values)


def test_the_harmonic_mean_of_every_part() -> None:
    retain = split([0.5, 0.7], wrong=[[0.1], [0.35]], texts=("red fox", "whale"))
    control = split([0.25], wrong=[[0.1]], texts=("seven",))
    result = model_utility(evidence({"original": reading([0.5], retain=retain, control=control)}, data=DATA))[0]
    expected = harmonic(0.6, 0.75, (0.8 + 0.5) / 2, 0.25, 1.0, 0.6)
    assert result.estimate == pytest.approx(expected)
    assert (result.n, result.higher_is) == (3, "useful")
    assert "retain probability 0.600, retain ROUGE 0.750, retain truth ratio 0.650, control probability" in result.note
    # One item in a split has no spread to resample.
    assert result.low is None
    assert "at least 2 items" in result.note


def test_the_interval_resamples_the_scores_of_an_item_together() -> None:
    data = UnlearnData((Item("f", "x"),), KEPT)
    # Good and bad go together, so a resample is all good, all bad or mixed: the ends are the items themselves.
    retain = split([0.9, 0.3], wrong=[[0.09], [0.15]], texts=("red fox", "whale"))
    result = model_utility(evidence({"original": reading([0.5], retain=retain)}, data=data))[0]
    assert result.high == pytest.approx(harmonic(0.9, 1.0, 0.9))
    assert result.low == pytest.approx(harmonic(0.3, 0.5, 0.5))


def test_a_part_at_zero_makes_the_whole_zero_and_is_named() -> None:
    data = UnlearnData((Item("f", "x"),), KEPT)
    retain = split([0.9, 0.9], wrong=[[0.1], [0.1]], texts=("no", "no"))
    result = model_utility(evidence({"original": reading([0.5], retain=retain)}, data=data))[0]
    assert result.estimate == 0.0
    assert "retain ROUGE 0.000" in result.note


def test_parts_that_cannot_be_scored_are_left_out() -> None:
    data = UnlearnData((Item("f", "x"),), (Item("r0", "дом"), Item("r1", "red")))
    retain = split([0.5, 0.5], texts=("x", "red"))
    result = model_utility(evidence({"original": reading([0.5], retain=retain)}, data=data))[0]
    assert result.estimate == pytest.approx(harmonic(0.5, 1.0))
    assert "truth ratio" not in result.note


def test_without_retain_and_control_there_is_a_reason() -> None:
    result = model_utility(evidence({"original": reading([0.5])}))[0]
    assert (result.estimate, result.note) == (None, "no retain or control items were given")


def test_control_items_alone_are_enough() -> None:
    data = UnlearnData((Item("f", "x"),), (), (), KEPT)
    control = split([0.5, 0.5], texts=("red fox", "blue whale"))
    found = by_subject(
        model_utility(
            evidence({"original": reading([0.5], control=control), "never": reading([0.5], control=control)}, data=data)
        )
    )
    assert found["original"].estimate == pytest.approx(harmonic(0.5, 1.0))
    assert found["original"].control == found["never"].estimate
    assert np.isfinite(found["original"].low or np.nan)
