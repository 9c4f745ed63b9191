"""Linear CKA: the spec's values, its invariances, the streaming form as oracle, its bias and its floors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hooked import VestigeError
from hooked.harvest.cka import LinearCKA
from probes.similarity import linear_cka

X = np.array([[1.0, 0], [0, 1], [-1, -1], [2, 1]])
Y = np.array([[1.0, 0], [0, 2], [-1, -2], [1, 3]])


def normal(rng: torch.Generator, *shape: int) -> np.ndarray:
    return torch.randn(*shape, generator=rng, dtype=torch.float64).numpy()


def test_the_values_of_the_specification() -> None:
    found = linear_cka(X, Y)
    assert found.biased == pytest.approx(0.890541, abs=1e-6)
    assert found.debiased == pytest.approx(0.576557, abs=1e-6)
    assert linear_cka(X, X * [1, 10]).biased == pytest.approx(0.758783, abs=1e-6)


def test_shift_scale_and_rotation_change_nothing(rng: torch.Generator) -> None:
    x, y = normal(rng, 20, 6), normal(rng, 20, 9)
    turn = np.linalg.qr(normal(rng, 6, 6))[0]
    plain = linear_cka(x, y)
    for other in (3 * x + 5, x @ turn, -x, x * 1e-6, x + 1e3):
        found = linear_cka(other, y)
        assert (found.biased, found.debiased) == (pytest.approx(plain.biased), pytest.approx(plain.debiased))
        assert linear_cka(x, other).debiased == pytest.approx(1, abs=1e-6)


def test_it_equals_the_streaming_form(rng: torch.Generator) -> None:
    x, y = normal(rng, 50, 8) + 3, normal(rng, 50, 5)
    y[:, :3] += x[:, :3]
    stream = LinearCKA()
    stream.add(torch.from_numpy(x), torch.from_numpy(y))
    found = linear_cka(x, y)
    assert (found.biased, found.debiased) == (pytest.approx(stream.biased), pytest.approx(stream.debiased))


@pytest.mark.parametrize(("n", "d"), [(32, 64), (512, 256)])
def test_independent_rows_score_their_bias_and_debiased_nothing(rng: torch.Generator, n: int, d: int) -> None:
    found = linear_cka(normal(rng, n, d), normal(rng, n, d), permutations=5)
    assert found.biased == pytest.approx(d / (n - 1 + d), abs=0.03)
    assert found.biased_floor == pytest.approx(d / (n - 1 + d), abs=0.03)
    assert found.debiased == pytest.approx(0, abs=0.06)
    assert found.floor == pytest.approx(0, abs=0.06)


def test_a_shared_part_clears_the_floor(rng: torch.Generator) -> None:
    x = normal(rng, 40, 10)
    alike, other = linear_cka(x, x + normal(rng, 40, 10)), linear_cka(x, normal(rng, 40, 10))
    assert alike.debiased > 0.3 > alike.floor_high > alike.floor
    assert other.debiased < other.floor_high + 0.1


def test_each_row_is_left_out_as_if_it_were_not_there(rng: torch.Generator) -> None:
    x = normal(rng, 9, 4)
    y = x + 0.5 * normal(rng, 9, 4)
    found = linear_cka(x, y).without
    slow = [linear_cka(np.delete(x, j, 0), np.delete(y, j, 0)).debiased for j in range(9)]
    assert found == pytest.approx(slow)
    assert np.isnan(linear_cka(X, Y).without).all()


def test_equal_rows_have_no_similarity(rng: torch.Generator) -> None:
    found = linear_cka(np.ones((6, 3)) * 0.1, normal(rng, 6, 3))
    assert math.isnan(found.biased)
    assert math.isnan(found.debiased)
    assert np.isnan(found.without).all()


def test_a_seed_decides_the_floor(rng: torch.Generator) -> None:
    x, y = normal(rng, 10, 3), normal(rng, 10, 3)
    assert linear_cka(x, y, seed=1).floor == linear_cka(x, y, seed=1).floor != linear_cka(x, y, seed=2).floor


def test_refusals() -> None:
    with pytest.raises(VestigeError, match=r"at least 4 rows, got \(3, 2\) and \(3, 2\)"):
        linear_cka(X[:3], Y[:3])
    with pytest.raises(VestigeError, match=r"got \(4, 2\) and \(3, 2\)"):
        linear_cka(X, Y[:3])
    with pytest.raises(VestigeError, match="row 1 of y holds NaN"):
        linear_cka(X, np.where(np.arange(4)[:, None] == 1, np.nan, Y))
    with pytest.raises(VestigeError, match="at least one permutation, got 0"):
        linear_cka(X, Y, permutations=0)
