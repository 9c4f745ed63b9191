"""Forget quality: does the unlearned model's truth ratio look drawn from the retrained model's?

The two-sample Kolmogorov-Smirnov p-value is counted exactly and in logarithms. SciPy's turns to 0 at about 500 items a
side, where a method at `log10 p = -inf` could not be told from any other, and gives up where rounding lifts p over 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import comb, log, log10

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from hooked.errors import VestigeError

from ._checks import numbers

_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class ForgetQuality:
    """A two-sided two-sample KS test, with the smallest p that its sample sizes can reach.

    Args:
        statistic: D, the largest distance between the two cumulative distributions, in [0, 1].
        p: Its exact p-value; 0 where a float cannot hold it, so compare `log10_p`.
        log10_p: Always finite.
        n: Items of the unlearned model.
        m: Items of the retrained model.
        floor_log10_p: log10 of `smallest_p(n, m)`. Models at this floor (D = 1) cannot be ranked.
    """

    statistic: float
    p: float
    log10_p: float
    n: int
    m: int
    floor_log10_p: float

    @property
    def at_floor(self) -> bool:
        """Whether the samples do not overlap at all, so that p only says how many items there were."""
        return self.statistic == 1.0


def forget_quality(unlearned: npt.ArrayLike, retrained: npt.ArrayLike) -> ForgetQuality:
    """Test whether two models' per-question truth ratios have one distribution.

    `D = max_x |F_n(x) - G_m(x)|`; p is the share of the C(n+m, n) orderings of the pooled items whose distance is at
    least D. Only ranks count, so R, 1/R and log R give the same answer.

    higher_is: forgotten (p near 1: not told apart from the retrained model). Range (0, 1]. Floor: `smallest_p(n, m)`.
    The same shift has a far smaller p with more items: never compare across n. A p near 1 is no evidence of deletion,
    and noise can reach it: read it next to the model utility.

    Args:
        unlearned: One truth ratio per forget item `[n]`; infinity is allowed, NaN is not.
        retrained: The same for the model retrained without the forget set `[m]`.

    Raises:
        VestigeError: An empty sample, NaN, or so few items that no outcome could reach p = 0.05 (4 a side are enough).

    Source:
        Maini et al., *TOFU*, arXiv:2401.06121. Path counting: Hodges 1958, *The significance probability of the Smirnov
        two-sample test*.
    """
    x = np.sort(numbers(unlearned, "unlearned truth ratios", allow_inf=True))
    y = np.sort(numbers(retrained, "retrained truth ratios", allow_inf=True))
    n, m = len(x), len(y)
    if smallest_p(n, m) > _SIGNIFICANT:
        raise VestigeError(
            f"forget quality of {n} against {m} items never gets below p = {smallest_p(n, m):.2g}, "
            "whatever the models do; give at least 4 items a side"
        )
    pooled = np.concatenate([x, y])
    # n m D as an exact integer: a float D would put ties on the wrong side of the boundary.
    gaps = np.searchsorted(x, pooled, "right") * m - np.searchsorted(y, pooled, "right") * n
    distance = int(np.abs(gaps).max())
    log_p = _log_p(distance, n, m)
    return ForgetQuality(distance / (n * m), float(np.exp(log_p)), log_p / log(10), n, m, smallest_log10_p(n, m))


def smallest_p(n: int, m: int) -> float:
    """Return the smallest p that n against m items can reach, `2 / C(n+m, n)`: the two orderings that do not overlap.

    `2 / C(2n, n)` for equal sizes, e.g. 1.45e-11 at 20 and 1.06e-239 at 400; 0 where a float cannot hold it.
    """
    return 2 / comb(_positive(n, "n") + _positive(m, "m"), n)


def smallest_log10_p(n: int, m: int) -> float:
    """Return log10 of `smallest_p`, always finite."""
    return log10(2) - log10(comb(_positive(n, "n") + _positive(m, "m"), n))


def _positive(count: int, name: str) -> int:
    if count < 1:
        raise VestigeError(f"{name} must be a number of items of at least 1, got {count}")
    return count


def _log_p(distance: int, n: int, m: int) -> float:
    """Log share of the lattice paths from (0, 0) to (n, m) that reach `|i m - j n| >= distance`.

    Each path is counted where it first leaves the band. All terms are positive, so nothing cancels, however small the
    sum. O(n m) time.
    """
    if distance == 0:
        return 0.0
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + m + 1)))])
    column = np.arange(m + 1)
    above = np.where(column == 0, 0.0, -np.inf)
    left: list[float] = []
    for i in range(n + 1):
        to_end = log_factorial[n + m - i - column] - log_factorial[n - i] - log_factorial[m - column]
        inside = np.abs(i * m - column * n) < distance
        left.extend((above + to_end)[~inside & np.isfinite(above)])
        above = _step_right(above, inside)
        if inside.any() and (last := int(np.flatnonzero(inside)[-1])) < m:
            left.append(above[last] + to_end[last + 1])
    log_paths = log_factorial[n + m] - log_factorial[n] - log_factorial[m]
    return min(0.0, float(np.logaddexp.reduce(left) - log_paths))


def _step_right(above: Float[np.ndarray, " m1"], inside: npt.NDArray[np.bool_]) -> Float[np.ndarray, " m1"]:
    """Log number of paths inside the band that reach each cell of a row, given those that enter it from above."""
    reached = np.logaddexp.accumulate(np.where(inside, above, -np.inf))
    return np.where(inside, reached, -np.inf)
