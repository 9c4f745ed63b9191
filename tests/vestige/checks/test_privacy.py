"""The membership check by hand: which models are compared, what is said without a holdout or a retrained model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from tests.vestige import build
from vestige.checks.privacy import NAMES, membership
from vestige.member_reading import MemberReading, TextReading
from vestige.result import Result


def text(log_prob: float) -> TextReading:
    return TextReading((log_prob,) * 2, (-3.0,) * 2, (1.0,) * 2, "abc")


def reading(forget: Sequence[float], holdout: Sequence[float]) -> MemberReading:
    return MemberReading(tuple(map(text, forget)) * 15, tuple(map(text, holdout)) * 15)


def check(readings: Mapping[str, MemberReading | None]) -> dict[tuple[str, str], Result]:
    beside = {name: replace(build.reading([0.5]), members=members) for name, members in readings.items()}
    return {(r.check, r.subject): r for r in membership(build.evidence(beside))}


# AUCs 1, 0.75 and 0.5; each item comes fifteen times.
HELD = [-2.0, -2.1, -2.2, -2.3]
KNOWN = reading([-0.1, -0.2, -0.3, -0.4], HELD)
HALF = reading([-0.1, -0.2, -0.3, -9.0], HELD)
LIKE = reading(HELD, HELD)


def test_every_score_gives_its_auc_with_chance_and_the_control() -> None:
    found = check({"original": KNOWN, "npo": HALF, "never": LIKE})
    for name in NAMES:
        original, unlearned = found[f"membership_{name}", "original"], found[f"membership_{name}", "npo"]
        assert (original.estimate, original.control, original.floor, original.n) == (1.0, 0.5, 0.5, 120)
        assert unlearned.estimate == pytest.approx(0.75)
        assert original.higher_is == "leaky"
        assert unlearned.low is not None


def test_comparisons_are_with_the_retrained_model_and_its_own_with_the_never_taught() -> None:
    found = check({"original": KNOWN, "npo": HALF, "retain": HALF, "never": LIKE})
    leaks = {subject: r.estimate for (name, subject), r in found.items() if name == "priv_leak"}
    assert leaks == pytest.approx({"original": -100, "npo": 0, "retain": -50, "never": 100})
    closeness = {subject: r.estimate for (name, subject), r in found.items() if name == "s_mia"}
    assert closeness == pytest.approx({"original": 2 / 3, "npo": 1, "retain": 0.5, "never": 2 / 3})
    assert "loss 0.667, zlib 0.667" in found["s_mia", "original"].note
    assert "utility" in found["priv_leak", "npo"].note


def test_nothing_is_assumed_where_no_second_model_was_given() -> None:
    found = check({"original": KNOWN, "npo": HALF})
    for name in ("priv_leak", "s_mia"):
        assert found[name, "npo"].estimate is None
        assert found[name, "npo"].note.startswith("needs a second model that never learnt the facts")
    assert found["membership_loss", "npo"].estimate == pytest.approx(0.75)


def test_no_holdout_is_a_reason_for_every_result() -> None:
    found = check({"original": None, "retain": None})
    assert len(found) == 2 * (len(NAMES) + 2)
    assert all(r.estimate is None and r.note.startswith("needs holdout items") for r in found.values())


def test_a_retrained_model_that_recognises_everything_leaves_no_comparison() -> None:
    leak = check({"original": KNOWN, "retain": KNOWN})["priv_leak", "original"]
    assert leak.estimate is None
    assert "below 3 null standard errors" in leak.note
