"""Depth leaks from falls made by hand: scale, control, blocks, and every reason for a missing number."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.vestige.build import by_subject, evidence, reading
from vestige.checks.depth import depth_leak, lens_depth_leak, raw_depth_leak
from vestige.evidence import Evidence
from vestige.intrinsic.patched import Patched

FALL = np.array([[0.0, 0.0, 0.0], [1.0, 2.0, 0.01], [3.0, 2.0, 0.0]])


def falls(view: float, raw: float | None = None, lens: float | None = None) -> Patched:
    """A subject whose states cause these shares of the retrained model's falls."""
    return Patched(FALL * view, FALL * (view if raw is None else raw), FALL * (view if lens is None else lens))


def made(**patched: Patched) -> Evidence:
    given = evidence({name: reading([0.5] * 3) for name in patched})
    return replace(given, patched=patched)


def test_the_scale_and_what_lies_between() -> None:
    given = made(original=falls(0.0), half=falls(0.25), retain=falls(1.0), never=falls(0.5))
    found = by_subject(depth_leak(given))
    assert {name: r.estimate for name, r in found.items()} == {
        "original": 1.0,
        "half": pytest.approx(0.75),
        "retain": 0.0,
        "never": pytest.approx(0.5),
    }
    assert {(r.floor, r.control, r.n, r.higher_is) for r in found.values()} == {(0.0, 0.5, 2, "leaky")}
    assert found["half"].per_layer is not None
    assert math.isnan(found["half"].per_layer[0])
    assert found["half"].per_layer[1:] == pytest.approx((0.75, 0.75))
    assert found["half"].note == "depth score 0.25; 1 of 3 items are left out, since no block carried them"
    assert "the scale itself" in found["retain"].note
    assert "the scale itself" not in found["never"].note


def test_the_three_read_their_own_falls_on_one_scale() -> None:
    given = made(original=falls(0.0), hidden=falls(0.9, raw=0.0, lens=0.8), retain=falls(1.0, raw=7.0, lens=2.0))
    assert by_subject(depth_leak(given))["hidden"].estimate == pytest.approx(0.1)
    raw = by_subject(raw_depth_leak(given))["hidden"]
    assert raw.estimate == 1.0
    assert "the original's own, so 1 by construction and no finding" in raw.note
    assert "by construction" not in by_subject(depth_leak(given))["hidden"].note
    assert by_subject(lens_depth_leak(given))["hidden"].estimate == pytest.approx(0.6)


def test_never_stands_in_for_retrained_and_that_is_said() -> None:
    found = by_subject(depth_leak(made(original=falls(0.0), edited=falls(0.5), never=falls(1.0))))
    assert found["edited"].estimate == pytest.approx(0.5)
    assert found["edited"].control == 0.0
    assert "never-taught instead of retrained" in found["edited"].note


def test_equal_subjects_have_equal_results() -> None:
    one, other = depth_leak(made(original=falls(0.0), a=falls(0.5), b=falls(0.5), never=falls(1.0)))[1:3]
    assert replace(one, subject="") == replace(other, subject="")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (made(original=falls(0.0), edited=falls(0.5)), "needs a model that never learnt the facts"),
        (replace(made(original=falls(0.0), never=falls(1.0)), patched={}), "'never', the scale of this check, has an"),
        (made(original=falls(0.0), never=Patched(FALL * 0, FALL * 0, FALL * 0)), "no block of the original carries"),
    ],
)
def test_what_is_missing_is_a_reason(given: Evidence, why: str) -> None:
    for check in (depth_leak, raw_depth_leak, lens_depth_leak):
        for result in check(given):
            assert (result.estimate, result.control) == (None, None)
            assert why in result.note


def test_a_subject_of_another_shape_is_left_out_alone() -> None:
    given = made(original=falls(0.0), small=falls(0.5), never=falls(1.0))
    found = by_subject(depth_leak(replace(given, patched={k: v for k, v in given.patched.items() if k != "small"})))
    assert found["small"].estimate is None
    assert "another number of blocks" in found["small"].note
    assert found["original"].estimate == 1.0


def test_one_item_has_no_interval() -> None:
    one = Patched(*(FALL[:, :1],) * 3)
    given = replace(
        evidence({"original": reading([0.5]), "never": reading([0.5])}), patched={"original": one, "never": one}
    )
    result = depth_leak(given)[0]
    assert (result.n, result.low) == (1, None)
    assert "at least 2 items" in result.note
