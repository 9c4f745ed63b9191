"""Running moments: those of all rows at once, whatever the order and grouping."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from hooked import RunningMoments, VestigeError


def rows_of(seed: int, n: int, *, mean: float = 0.0, spread: float = 1.0) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return mean + spread * torch.randn(n, 3, generator=rng, dtype=torch.float64)


def close(one: RunningMoments, other: RunningMoments) -> bool:
    return (
        one.count == other.count
        and torch.allclose(one.mean, other.mean, rtol=1e-12, atol=1e-12)
        and torch.allclose(one.deviation, other.deviation, rtol=1e-9, atol=1e-12)
    )


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_any_split_of_the_rows_gives_their_moments(sizes: list[int], seed: int) -> None:
    """S11."""
    rows = rows_of(seed, sum(sizes), mean=3.0)
    merged = RunningMoments.empty(3)
    for part in rows.split(sizes):
        merged = merged.merge(RunningMoments.of(part))
    assert close(merged, RunningMoments.of(rows))
    if len(rows) > 1:
        torch.testing.assert_close(merged.mean, rows.mean(0))
        torch.testing.assert_close(merged.std, rows.std(0))
        torch.testing.assert_close(merged.variance, rows.var(0, unbiased=False))


@given(st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)), st.integers(0, 99))
def test_merging_is_associative_and_commutative(sizes: tuple[int, int, int], seed: int) -> None:
    """S11."""
    a, b, c = (RunningMoments.of(rows_of(seed + i, n, mean=i)) for i, n in enumerate(sizes))
    assert close(a.merge(b).merge(c), a.merge(b.merge(c)))
    assert close(a.merge(b), b.merge(a))
    assert close(a.merge(RunningMoments.empty(3)), a)


def test_a_large_mean_does_not_cancel_a_small_variance() -> None:
    """S11: mean 1e4, variance 1e-2, in float32, against float64 on the same rows."""
    rows = rows_of(0, 4000, mean=1e4, spread=0.1).float()
    merged = RunningMoments.empty(3)
    for part in rows.split(7):
        merged = merged.merge(RunningMoments.of(part))
    oracle = rows.double()
    torch.testing.assert_close(merged.variance, oracle.var(0, unbiased=False), rtol=1e-9, atol=0)
    torch.testing.assert_close(merged.mean, oracle.mean(0), rtol=1e-12, atol=0)
    naive = (rows.square().mean(0) - rows.mean(0).square()).double()
    assert bool(((naive - merged.variance).abs() > 0.1 * merged.variance).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bit_rows_are_accumulated_wide(dtype: torch.dtype) -> None:
    """S11: mean 8, variance 1e-2."""
    rows = rows_of(1, 5000, mean=8.0, spread=0.1).to(dtype)
    moments = RunningMoments.of(rows)
    torch.testing.assert_close(moments.variance, rows.double().var(0, unbiased=False), rtol=1e-12, atol=0)


def test_a_mask_leaves_rows_out_and_zero_rows_stay() -> None:
    """P9."""
    rows = rows_of(2, 6).reshape(2, 3, 3)
    rows[0, 1] = 0.0
    mask = torch.tensor([[True, True, False], [False, True, True]])
    moments = RunningMoments.of(rows, mask=mask)
    assert moments.count == 4
    assert close(moments, RunningMoments.of(rows[mask]))
    rows[~mask] = float("nan")
    assert close(RunningMoments.of(rows, mask=mask), moments)
    assert RunningMoments.of(rows, mask=torch.zeros_like(mask)).count == 0


def test_batch_axes_are_rows() -> None:
    rows = rows_of(3, 12)
    assert close(RunningMoments.of(rows.reshape(2, 2, 3, 3)), RunningMoments.of(rows))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_row_that_is_no_number_is_refused(value: float) -> None:
    rows = rows_of(4, 5)
    rows[3, 1] = value
    with pytest.raises(VestigeError, match="row 3 of 5 holds NaN or infinity, so it has no moments"):
        RunningMoments.of(rows)


def test_one_row_has_no_sample_deviation() -> None:
    one = RunningMoments.of(rows_of(5, 1))
    assert not one.variance.any()
    for moments in (one, RunningMoments.empty(3)):
        with pytest.raises(VestigeError, match=f"needs at least 2 rows, got {moments.count}"):
            _ = moments.std


def test_updates_return_new_values() -> None:
    first, second = RunningMoments.of(rows_of(6, 4)), RunningMoments.of(rows_of(7, 4))
    mean, deviation = first.mean.clone(), first.deviation.clone()
    first.merge(second)
    assert torch.equal(first.mean, mean)
    assert torch.equal(first.deviation, deviation)
