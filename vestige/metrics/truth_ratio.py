"""Truth ratio: how likely wrong answers are, relative to the right one.

It compares relative likelihoods only: a model that outputs noise everywhere can look exactly like one that never
learned the facts. Read it next to the model utility.
"""

from __future__ import annotations

from math import inf
from typing import Literal

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from hooked.errors import VestigeError

from ._checks import nlls, numbers


def truth_ratio(
    base_nll: float, perturbed_nll: npt.ArrayLike, *, mean: Literal["geometric", "arithmetic"] = "geometric"
) -> float:
    """Return R of one question: the mean likelihood of the wrong answers over that of the right one.

    Geometric, the default: `R = exp(mean_i log P_i - log P)`. Arithmetic: `R = mean_i P_i / P`, never below the
    geometric one. Every `P = exp(-nll)` is a `seq_prob`.

    higher_is: forgotten (wrong answers gain on the right one). Range [0, inf]. Floor: none; 1 means wrong and right are
    equally likely.

    Args:
        base_nll: Mean token NLL of the base answer, in nats: the paraphrased answer on forget and retain items, else
            the plain one.
        perturbed_nll: Mean token NLL of each wrong answer of the same style `[n_perturbed]`.
        mean: How wrong answers are averaged. TOFU's aggregation script and open-unlearning use `geometric`, TOFU's
            older `utils` module `arithmetic`.

    Raises:
        VestigeError: No wrong answer, NaN, an NLL below 0, or right and wrong answers that all have probability 0.

    Source:
        Maini et al., *TOFU*, arXiv:2401.06121 (the released `truth_ratio` stores 1/R).
    """
    base, perturbed = float(nlls([base_nll], "base_nll")[0]), nlls(perturbed_nll, "perturbed_nll")
    if mean not in ("geometric", "arithmetic"):
        raise VestigeError(f"mean must be 'geometric' or 'arithmetic', got {mean!r}")
    wrong = float(perturbed.mean()) if mean == "geometric" else _soft_minimum(perturbed)
    if base == wrong == inf:
        raise VestigeError("the truth ratio is 0/0: right and wrong answers all have probability 0 under this model")
    with np.errstate(over="ignore"):
        return float(np.exp(base - wrong))


def _soft_minimum(nll: Float[np.ndarray, " n"]) -> float:
    """NLL of the arithmetic mean probability, `-log mean_i exp(-nll_i)`."""
    return float(np.log(len(nll)) - np.logaddexp.reduce(-nll))


def closer_to_1(ratios: npt.ArrayLike) -> Float[np.ndarray, " n_items"]:
    """Return `min(R, 1/R)` per item; the published score is the mean.

    higher_is: forgotten. Range [0, 1]. Floor: none; 1 is a model that does not tell right from wrong. Also low where
    wrong answers win by far, so it does not order models on its own.

    Source:
        Maini et al., *TOFU*, arXiv:2401.06121, forget set.
    """
    values = _ratios(ratios)
    with np.errstate(divide="ignore"):
        return np.asarray(np.minimum(values, 1 / values))


def true_better(ratios: npt.ArrayLike) -> Float[np.ndarray, " n_items"]:
    """Return `max(0, 1 - R)` per item; the published score is the mean.

    higher_is: useful. Range [0, 1]. Floor: 0 when wrong answers are as likely as right ones.

    Source:
        Maini et al., *TOFU*, arXiv:2401.06121, retain, real authors and world facts.
    """
    return np.asarray(np.maximum(0.0, 1 - _ratios(ratios)))


def prob_mean(ratios: npt.ArrayLike) -> Float[np.ndarray, " n_items"]:
    """Return `1 / (1 + R)` = P / (P + P_wrong) per item; the published score is the mean.

    higher_is: leaky. Range [0, 1]. Floor: 0.5, where wrong answers are as likely as right ones.

    Source:
        The meta-evaluation of open-unlearning.
    """
    return np.asarray(1 / (1 + _ratios(ratios)))


def _ratios(ratios: npt.ArrayLike) -> Float[np.ndarray, " n_items"]:
    values = numbers(ratios, "ratios", allow_inf=True)
    if values.min() < 0:
        raise VestigeError(
            f"truth ratios cannot be below 0, got {values.min():g} at item {values.argmin()}; were logs passed?"
        )
    return values
