"""Can somebody tell that the forget set was trained on? Membership AUC, and how far it is from a retrained model's.

One convention everywhere: `auc_member` is 1 where the forget set looks like training data beside a holdout set that was
never seen. MUSE stores one minus it. Read none of this without utility: a collapsed model passes through the retrained
model's value on its way down.
"""

from __future__ import annotations

from math import sqrt

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from hooked.errors import VestigeError

from ._checks import numbers


def auc_member(forget: npt.ArrayLike, holdout: npt.ArrayLike) -> float:
    """Return `P(holdout score > forget score) + P(=) / 2`.

    higher_is: leaky. Range [0, 1]. Floor: 0.5, if the two sets are alike but for membership; the retrained model says
    whether they are.

    Args:
        forget: Scores `[n]`; infinity is allowed, NaN is not.
        holdout: Scores `[m]`.

    Raises:
        VestigeError: An empty set, or NaN.
    """
    return float(won_pairs(forget, holdout).mean())


def null_standard_error(n: int, m: int) -> float:
    """Return the standard error of an AUC of n against m items whose scores have one distribution,
    `sqrt((n + m + 1) / (12 n m))`: 0.065 for 40 against 40.

    Raises:
        VestigeError: A number is below 1.
    """
    if min(n, m) < 1:
        raise VestigeError(f"an AUC compares at least one item with one, got {n} with {m}")
    return sqrt((n + m + 1) / (12 * n * m))


def priv_leak(auc: float, retrained_auc: float) -> float:
    """Return `100 ((1 - auc) - (1 - retrained_auc)) / (1 - retrained_auc)`, from -100 to `100 r / (1 - r)`.

    higher_is: forgotten; 0 is the retrained model, below it the set is still recognised, above it the model was pushed
    past never having seen it. Noise at 40 items a side is 13 points (one standard error).

    Args:
        auc: `auc_member` of the unlearned model.
        retrained_auc: Of the model retrained without the forget set.

    Raises:
        VestigeError: One is outside [0, 1], or `retrained_auc` is 1.

    Source:
        Shi et al., *MUSE*, arXiv:2407.06460.
    """
    _check_aucs(auc, retrained_auc)
    if retrained_auc == 1:
        raise VestigeError(
            "PrivLeak divides by one minus the retrained model's AUC, which is 0: the two sets differ by themselves; "
            "take a holdout set like the forget set"
        )
    return 100 * (retrained_auc - auc) / (1 - retrained_auc)


def s_mia(auc: float, retrained_auc: float) -> float:
    """Return `1 - min(|auc - retrained_auc| / retrained_auc, 1)`: closeness to the retrained model, whatever the side.

    higher_is: forgotten. Range [0, 1]. Floor: none; the original model's own value, which need not be 0.

    Args:
        auc: `auc_member` of the unlearned model.
        retrained_auc: Of the model retrained without the forget set.

    Raises:
        VestigeError: One is outside [0, 1], or `retrained_auc` is 0.

    Source:
        The project page of the unlearning depth score.
    """
    _check_aucs(auc, retrained_auc)
    if retrained_auc == 0:
        raise VestigeError("s_mia divides by the retrained model's AUC, which is 0; take a holdout like the forget set")
    return 1 - min(abs(auc - retrained_auc) / retrained_auc, 1.0)


def won_pairs(forget: npt.ArrayLike, holdout: npt.ArrayLike) -> Float[np.ndarray, "n m"]:
    """Return, for every pair of a forget and a holdout item, 1 where the holdout score is higher, 1/2 at a tie, else 0.

    Raises:
        VestigeError: An empty set, or NaN.
    """
    mine = numbers(forget, "forget scores", allow_inf=True)[:, None]
    others = numbers(holdout, "holdout scores", allow_inf=True)[None]
    won: Float[np.ndarray, "n m"] = (others > mine) + 0.5 * (others == mine)
    return won


def _check_aucs(*aucs: float) -> None:
    wrong = next((auc for auc in aucs if not 0 <= auc <= 1), None)
    if wrong is not None:
        raise VestigeError(f"an AUC lies in [0, 1], got {wrong}")
