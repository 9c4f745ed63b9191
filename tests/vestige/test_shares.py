"""Shares, and how much of them is more than the noise of few items."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import sem

from vestige.result import AttackResult, AuditReport, Result, SubjectInfo
from vestige.shares import Share, shares_of

SUBJECTS = (SubjectInfo("original", "original"), SubjectInfo("x", "unlearned"), SubjectInfo("never", "never"))


def report(items: dict[str, list[float]], *, attacked: dict[str, list[float]] | None = None) -> AuditReport:
    """An audit with one check and one attack; `items` are the values of each subject."""
    low = float(np.mean(items["never"]))
    results = [
        Result("lens_leak", name, float(np.mean(values)), n=len(values), control=low, per_item=tuple(values))
        for name, values in items.items()
    ]
    attacks = [
        AttackResult("few_shot", name, float(np.mean(values)), gap=float(np.mean(values)) / 2, per_item=tuple(values))
        for name, values in (attacked or {}).items()
    ]
    return AuditReport({}, SUBJECTS, tuple(results), attacks=tuple(attacks))


def of(items: list[float], never: list[float], name: str = "lens_leak", **given: dict[str, list[float]]) -> Share:
    found = shares_of(report({"original": [0.9] * len(items), "x": items, "never": never}, **given), "x")[name]
    assert found is not None
    return found


def test_the_error_is_that_of_differences_from_the_control_on_the_same_items() -> None:
    rng = np.random.default_rng(0)
    hard, gained = rng.random(12) / 2, rng.random(12) / 4
    found = of((hard + gained).tolist(), hard.tolist())
    whole = 0.9 - hard.mean()
    assert found.value == pytest.approx(gained.mean() / whole)
    # How hard the items are for everybody is no noise.
    assert found.error == pytest.approx(sem(gained) / whole)
    attacked = {"original": [0.9] * 12, "x": (hard + gained).tolist(), "never": hard.tolist()}
    gap = of([0.5] * 12, [0.1] * 12, "attack:few_shot", attacked=attacked)
    assert gap.value == pytest.approx((hard + gained).mean() / 2)
    assert gap.error / gap.value == pytest.approx(sem(gained) / gained.mean())


def test_what_one_item_makes_is_half_clear_and_what_all_make_is_clear() -> None:
    one = of([1.0] + [0.0] * 19, [0.0] * 20)
    assert one.error == pytest.approx(one.value)
    assert one.clear == pytest.approx(one.value / 2)
    half = of([1.0] * 10 + [0.0] * 10, [0.0] * 20)
    assert 0.93 * half.value < half.clear < half.value
    every = of([0.3] * 20, [0.0] * 20)
    assert every.clear == pytest.approx(every.value)
    single = of([0.4], [0.0])
    assert single.error == pytest.approx(single.value)


def test_noise_of_few_items_counts_for_less_than_the_same_share_of_many() -> None:
    rng = np.random.default_rng(1)
    few, many = [], []
    for _ in range(300):
        mine, other = rng.exponential(0.1, 6), rng.exponential(0.1, 6)
        noise = of(mine.tolist(), other.tolist())
        few.append(noise.clear / noise.value)
        more = of((0.1 + rng.exponential(0.1, 200)).tolist(), rng.exponential(0.1, 200).tolist())
        many.append(more.clear / more.value)
    assert np.mean(few) < 0.55
    assert np.min(many) > 0.97


def test_what_cannot_be_compared_item_by_item_has_no_error() -> None:
    assert of([0.3] * 4, [0.1] * 5).error == 0
    assert of([0.1] * 5, [0.1] * 5) == (pytest.approx(0), pytest.approx(0))
    assert Share(0.0).clear == 0
    assert Share(-0.2, 0.1).clear == pytest.approx(-0.16)


def test_without_a_scale_there_is_no_share() -> None:
    near = report({"original": [0.12] * 4, "x": [0.11] * 4, "never": [0.1] * 4})
    assert shares_of(near, "x") == {"lens_leak": None}
