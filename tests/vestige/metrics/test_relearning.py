"""Relearning curves: the identities of the specification, what a censored curve leaves, and what is refused."""

from math import inf, nan
from typing import Any

import pytest

from hooked.errors import VestigeError
from vestige.metrics.relearning import SpeedUp, StepsTo, relearn_area, relearn_gap, speed_up, steps_to

ORIGINAL = {0: 0.9, 1: 0.95, 5: 1.0, 20: 1.0}
CONTROL = {0: 0.1, 1: 0.1, 5: 0.3, 20: 0.6}
UNLEARNED = {0: 0.1, 1: 0.2, 5: 0.7, 20: 0.8}


def test_hand_values() -> None:
    curves: dict[str, Any] = {"unlearned": UNLEARNED, "control": CONTROL, "original": ORIGINAL}
    assert [relearn_gap(**curves, step=step) for step in UNLEARNED] == pytest.approx([0, 0.125, 0.5, 0.25])
    assert relearn_area(**curves) == pytest.approx(0.875 / 4)
    assert steps_to(UNLEARNED, control=CONTROL, original=ORIGINAL) == StepsTo(5)
    assert steps_to(CONTROL, control=CONTROL, original=ORIGINAL) == StepsTo(20)
    assert speed_up(**curves) == SpeedUp(4.0)


def test_the_control_has_no_gap_at_any_step() -> None:
    curves: dict[str, Any] = {"unlearned": dict(CONTROL), "control": CONTROL, "original": ORIGINAL}
    assert all(relearn_gap(**curves, step=step) == 0 for step in CONTROL)
    assert relearn_area(**curves) == 0
    assert speed_up(**curves) == SpeedUp(1.0)


def test_the_original_has_a_gap_of_1_before_any_step() -> None:
    curves: dict[str, Any] = {"unlearned": ORIGINAL, "control": CONTROL, "original": ORIGINAL}
    assert relearn_gap(**curves, step=0) == 1
    assert steps_to(ORIGINAL, control=CONTROL, original=ORIGINAL, share=1.0) == StepsTo(0)
    assert speed_up(**curves) == SpeedUp(inf)


def test_of_the_original_only_step_0_counts() -> None:
    other = {step: 0.9 if step == 0 else 0.0 for step in ORIGINAL}
    for step in UNLEARNED:
        gaps = [relearn_gap(unlearned=UNLEARNED, control=CONTROL, original=o, step=step) for o in (ORIGINAL, other)]
        assert gaps[0] == gaps[1]


def test_a_curve_that_never_gets_there_is_censored_and_not_said_to_take_all_steps() -> None:
    never = dict.fromkeys(CONTROL, 0.1)
    assert steps_to(never, control=CONTROL, original=ORIGINAL) == StepsTo(20, censored=True)
    slow = speed_up(unlearned=never, control=CONTROL, original=ORIGINAL)
    assert slow == SpeedUp(1.0, "below")
    fast = speed_up(unlearned=UNLEARNED, control=never, original=ORIGINAL)
    assert fast == SpeedUp(4.0, "above")
    assert speed_up(unlearned=never, control=never, original=ORIGINAL) == SpeedUp(None, "none")
    assert speed_up(unlearned=ORIGINAL, control=never, original=ORIGINAL) == SpeedUp(inf)


def test_the_first_step_counts_and_not_the_last() -> None:
    peak = {0: 0.1, 1: 0.8, 5: 0.2, 20: 0.9}
    assert steps_to(peak, control=CONTROL, original=ORIGINAL) == StepsTo(1)


def test_the_order_of_steps_in_a_mapping_does_not_matter() -> None:
    turned = dict(reversed(UNLEARNED.items()))
    curves: dict[str, Any] = {"control": CONTROL, "original": ORIGINAL}
    assert speed_up(unlearned=turned, **curves) == speed_up(unlearned=UNLEARNED, **curves)
    assert relearn_area(unlearned=turned, **curves) == pytest.approx(relearn_area(unlearned=UNLEARNED, **curves))


@pytest.mark.parametrize("known", [0.1, 0.05])
def test_without_anything_known_nothing_is_identified(known: float) -> None:
    curves: dict[str, Any] = {"unlearned": UNLEARNED, "control": CONTROL, "original": {**ORIGINAL, 0: known}}
    assert relearn_gap(**curves, step=5) is None
    assert relearn_area(**curves) is None
    assert steps_to(UNLEARNED, control=CONTROL, original=curves["original"]) is None
    assert speed_up(**curves) == SpeedUp(None, "none")


def test_errors_say_what_is_wrong() -> None:
    curves: dict[str, Any] = {"unlearned": UNLEARNED, "control": CONTROL, "original": ORIGINAL}
    with pytest.raises(VestigeError, match="the curves have no step 3; they have 0, 1, 5, 20"):
        relearn_gap(**curves, step=3)
    with pytest.raises(VestigeError, match=r"unlearned has steps \[0, 1, 5, 20\], control \[0, 1\]"):
        relearn_area(unlearned=UNLEARNED, control={0: 0.1, 1: 0.1}, original=ORIGINAL)
    with pytest.raises(VestigeError, match=r"begins at step 0, got steps \[1\]"):
        relearn_area(unlearned={1: 0.1}, control={1: 0.1}, original={1: 0.9})
    with pytest.raises(VestigeError, match="the curve control is nan at step 5"):
        relearn_area(unlearned=UNLEARNED, control={**CONTROL, 5: nan}, original=ORIGINAL)
    with pytest.raises(VestigeError, match="share is above 0 and at most 1, got 0"):
        speed_up(**curves, share=0.0)
