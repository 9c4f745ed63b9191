from __future__ import annotations

from math import floor, inf

import pytest
import torch
from torch import Tensor

from hooked import VestigeError
from interventions.calibration import FOLDS, NEVER, calibrated, just_above, order_statistic


@pytest.mark.parametrize("rate", [0.0, 0.05, 0.1, 0.24, 0.3, 0.5, 0.99])
def test_the_limit_lets_in_as_many_as_the_order_statistic(rate: float, rng: torch.Generator) -> None:
    for n in (3, 10, 41):
        distances = torch.randn(n, generator=rng, dtype=torch.float64)
        limit = just_above(distances, rate)
        assert int((distances <= limit).sum()) == floor(rate * n + 1e-9)
        wanted = order_statistic(distances, rate)
        assert (limit == -inf) == (wanted == NEVER)
        if limit > -inf:
            # The item at the edge keeps clear of it, so that rounding does not decide.
            gap = distances.sort().values.diff().min().item()
            assert wanted + 0.04 * gap <= limit
            assert (distances - limit).abs().min() > 0.04 * gap


def test_an_interpolated_quantile_would_let_in_too_many() -> None:
    distances = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])
    assert int((distances <= torch.quantile(distances, 0.1)).sum()) / 5 > 0.1
    assert int((distances <= just_above(distances, 0.1)).sum()) == 0


def test_ties_fire_together() -> None:
    assert just_above(torch.tensor([1.0, 1.0, 2.0]), 0.4) == 1.0


def nearest(points: Tensor, n_forget: int) -> object:
    """A detector that has learned its retain items by heart: far from them, at 0 everywhere else."""

    def distances(forget_rows: Tensor, retain_rows: Tensor) -> tuple[Tensor, Tensor]:
        known = points[n_forget:][retain_rows]
        far = (torch.cdist(points, known).amin(-1) == 0).double() + 1e-3 * points[:, 0]
        return far[:n_forget], far[n_forget:]

    return distances


def test_a_detector_that_knows_its_retain_items_is_calibrated_on_those_it_does_not(rng: torch.Generator) -> None:
    points = torch.randn(140, 3, generator=rng, dtype=torch.float64)
    made = {
        reads: calibrated(nearest(points, 40), n_forget=40, n_retain=100, rate=0.1, seed=0, reads_retain=reads)  # type: ignore[arg-type]
        for reads in (True, False)
    }
    # Every new item is as good as a forget item to it. Only a limit from unseen items shows the promised rate.
    assert made[False].heldout_false_positive_rate > 0.95
    assert made[True].heldout_false_positive_rate == pytest.approx(0.1, abs=0.03)
    assert made[True].limit < 0.5 < made[False].limit


def test_both_limits_hold_on_the_items_at_hand(rng: torch.Generator) -> None:
    points = torch.randn(60, 2, generator=rng, dtype=torch.float64)

    def distances(forget_rows: Tensor, retain_rows: Tensor) -> tuple[Tensor, Tensor]:
        centre = points[:20][forget_rows].mean(0)
        far = (points - centre).norm(dim=-1)
        return far[:20], far[20:]

    for reads in (True, False):
        made = calibrated(distances, n_forget=20, n_retain=40, rate=0.2, seed=1, reads_retain=reads)
        everything = torch.ones(20, dtype=torch.bool), torch.ones(40, dtype=torch.bool)
        assert int((distances(*everything)[1] <= made.limit).sum()) <= 8
        assert made.false_positive_rate == 0.2


def test_few_items_are_not_split_and_no_item_is_a_warning() -> None:
    def distances(forget_rows: Tensor, retain_rows: Tensor) -> tuple[Tensor, Tensor]:
        assert forget_rows.all()
        return torch.zeros(FOLDS - 1), torch.arange(9.0)

    made = calibrated(distances, n_forget=FOLDS - 1, n_retain=9, rate=0.2, seed=0, reads_retain=True)
    assert (made.heldout_true_positive_rate, made.heldout_false_positive_rate) == (None, None)
    with pytest.warns(UserWarning, match="never fires: a false positive rate of 0.1 leaves none of 9 retain items"):
        never = calibrated(distances, n_forget=FOLDS - 1, n_retain=9, rate=0.1, seed=0, reads_retain=True)
    assert never.limit == -inf
    for rate in (-0.1, 1.0):
        with pytest.raises(VestigeError, match=f"at least 0 and below 1, got {rate}"):
            calibrated(distances, n_forget=4, n_retain=9, rate=rate, seed=0, reads_retain=True)


def test_a_rate_just_below_1_leaves_one_item_out() -> None:
    distances = torch.arange(24.0)
    rate = 0.9999999999999
    assert int((distances <= just_above(distances, rate)).sum()) == 23
    assert order_statistic(distances, rate) == 22.0


@pytest.mark.parametrize("n_retain", [20, 24])
@pytest.mark.parametrize("reads", [False, True])
def test_rates_of_folds_too_small_to_fire_are_not_known(n_retain: int, reads: bool) -> None:
    """A perfect detector that has a limit on all items, and none on four fifths of them, does not catch nothing."""

    def distances(forget_rows: Tensor, retain_rows: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(10), 1 + torch.arange(float(n_retain))

    with pytest.warns(UserWarning, match=f"rates on held-out items are not known: .* 0.05 .* of {n_retain} retain"):
        made = calibrated(distances, n_forget=10, n_retain=n_retain, rate=0.05, seed=0, reads_retain=reads)
    assert made.limit >= 1
    assert (made.heldout_true_positive_rate, made.heldout_false_positive_rate) == (None, None)


def test_folds_that_fire_are_judged_from_twenty_five_items_on() -> None:
    def distances(forget_rows: Tensor, retain_rows: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(10), 1 + torch.arange(25.0)

    made = calibrated(distances, n_forget=10, n_retain=25, rate=0.05, seed=0, reads_retain=False)
    assert made.heldout_true_positive_rate == 1.0
