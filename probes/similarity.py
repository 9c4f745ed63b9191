"""How alike are two representations of the same rows? Linear CKA with its unbiased form, what shuffled rows score, and
what each row contributes."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from hooked import VestigeError

_MIN_ROWS = 4
# An estimate below this part of the terms it is a difference of is nothing but rounding.
_ROUNDING = 1e-14

Gram = Float[np.ndarray, "n n"]


@dataclass(frozen=True)
class Similarity:
    """Linear CKA of two sets of rows; NaN throughout where the rows of one side are all equal.

    Args:
        debiased: At most 1; near 0, on either side, for independent rows.
        biased: In [0, 1]; about d / (n - 1 + d) for n independent isotropic rows of d dimensions, however unlike.
        floor: Mean of `debiased` over shuffles of the rows of one side.
        floor_high: Its 95th percentile.
        biased_floor: Mean of `biased` over the shuffles: what this many rows give away by themselves.
        without: `debiased` with each row left out in turn, for a jackknife; NaN with 4 rows.
    """

    debiased: float
    biased: float
    floor: float
    floor_high: float
    biased_floor: float
    without: Float[np.ndarray, " n"]


def linear_cka(
    x: Float[np.ndarray, "n d"], y: Float[np.ndarray, "n e"], *, permutations: int = 20, seed: int = 0
) -> Similarity:
    """Compare two representations of the same rows, all rows at once.

    Neither form changes when a side is shifted, rotated or scaled as a whole; both change when single axes are scaled.
    Averages over batches keep the bias of small batches, so there is no batch size here; `LinearCKA` in
    `hooked.harvest` computes the same from a stream, for more rows than fit a matrix `[n, n]`.

    Args:
        x: One row per item.
        y: The same items in another model or at another site; any width.
        permutations: Shuffles behind the floors.
        seed: Of the shuffles.

    Raises:
        VestigeError: Numbers of rows differ or are below 4, a value is not finite, or there is no shuffle.

    Source:
        Kornblith et al. 2019, arXiv:1905.00414; Song et al. 2012, JMLR 13, equation 5, for the unbiased estimator.
    """
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < _MIN_ROWS:
        raise VestigeError(f"CKA compares [n, d] with [n, e] of at least {_MIN_ROWS} rows, got {x.shape} and {y.shape}")
    if permutations < 1:
        raise VestigeError(f"a floor needs at least one permutation, got {permutations}; 20 or more are usual")
    K, L = _gram(x, "x"), _gram(y, "y")
    rng = np.random.default_rng(seed)
    shuffled = []
    for _ in range(permutations):
        order = rng.permutation(len(L))
        shuffled.append(_both(K, L[np.ix_(order, order)]))
    floor, biased_floor = np.array(shuffled).T
    debiased, biased = _both(K, L)
    return Similarity(
        debiased=debiased,
        biased=biased,
        floor=float(floor.mean()),
        floor_high=float(np.quantile(floor, 0.95)),
        biased_floor=float(biased_floor.mean()),
        without=_without_each(K, L),
    )


def _gram(rows: Float[np.ndarray, "n d"], name: str) -> Gram:
    wide = rows.astype(np.float64)
    if not np.isfinite(wide).all():
        row = int(np.argmin(np.isfinite(wide).all(-1)))
        raise VestigeError(f"row {row} of {name} holds NaN or infinity, so nothing can be compared with it")
    spread = wide - wide.mean(0)
    # Rows that are equal but for rounding have no directions to compare.
    flat = np.abs(spread).max(initial=0.0) <= 1e-12 * np.abs(wide).max(initial=0.0)
    size = 0.0 if flat else float(np.linalg.norm(spread))
    scaled = spread / size if size > 0 else np.zeros_like(spread)
    gram: Gram = scaled @ scaled.T
    return gram


def _both(K: Gram, L: Gram) -> tuple[float, float]:
    own = float(np.linalg.norm(K) * np.linalg.norm(L))
    if own == 0:
        return math.nan, math.nan
    bare, other = _hollow(K), _hollow(L)
    return _ratio(*(_hsic(*pair) for pair in ((bare, other), (bare, bare), (other, other)))), float((K * L).sum()) / own


def _hollow(gram: Gram) -> Gram:
    hollow = gram.copy()
    np.fill_diagonal(hollow, 0.0)
    return hollow


def _ratio(cross: float, one: float, other: float) -> float:
    # Both sides have total variance 1, so these are relative to the terms of their differences.
    return cross / math.sqrt(one * other) if min(one, other) > _ROUNDING else math.nan


def _hsic(K: Gram, L: Gram) -> float:
    """Return n (n - 3) times the unbiased estimate of HSIC, of Gram matrices without diagonals."""
    n, k, s = len(K), K.sum(1), L.sum(1)
    return float((K * L).sum() + k.sum() * s.sum() / ((n - 1) * (n - 2)) - 2 * (k @ s) / (n - 2))


def _without_each(K: Gram, L: Gram) -> Float[np.ndarray, " n"]:
    n = len(K) - 1
    if n < _MIN_ROWS:
        return np.full(n + 1, np.nan)
    bare, other = _hollow(K), _hollow(L)

    def hsic(A: Gram, B: Gram) -> Float[np.ndarray, " n"]:
        # Row and column j leave every sum; the diagonal holds nothing that would be taken off twice.
        a, b, along = A.sum(1), B.sum(1), (A * B).sum(1)
        trace = along.sum() - 2 * along
        sums = (a.sum() - 2 * a) * (b.sum() - 2 * b)
        both = a @ b - a * b - B @ a - A @ b + along
        found: Float[np.ndarray, " n"] = trace + sums / ((n - 1) * (n - 2)) - 2 * both / (n - 2)
        return found

    parts = zip(hsic(bare, other), hsic(bare, bare), hsic(other, other), strict=True)
    return np.array([_ratio(*map(float, part)) for part in parts])
