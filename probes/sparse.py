"""k-sparse probes: how few coordinates of an activation tell the classes apart, on groups that chose none of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from hooked import VestigeError
from probes.held_out import Fit, Scorer, auc_with_interval, controls, held_out_scores, one_blas_thread
from probes.linear import standardised_logistic
from probes.samples import Groups, Labels, Samples, assign_folds, check_samples, folds_of_split


@dataclass(frozen=True)
class SparseResult:
    """What a probe of k coordinates reads on held-out groups.

    Args:
        k: Number of coordinates.
        auc: Chance that a positive row outscores a negative row of the same fold; with more than two classes the mean
            of one class against the rest.
        low: Lower end of the 95 % interval of a bootstrap over groups.
        high: Upper end.
        shuffled_auc: Mean AUC on shuffled labels, coordinates chosen anew for each.
        shuffled_high: 97.5th percentile over the shuffles.
        coordinates: The k most telling ones of all rows, best first. The scores are those of coordinates chosen on
            training rows, which may be others.
    """

    k: int
    auc: float
    low: float
    high: float
    shuffled_auc: float
    shuffled_high: float
    coordinates: tuple[int, ...]


@one_blas_thread()
def fit_sparse_probe(
    acts: Float[Tensor, "n d_model"],
    labels: Labels,
    *,
    groups: Groups,
    ks: Sequence[int] = (1, 2, 4, 8, 16),
    train: Sequence[bool] | Tensor | None = None,
    folds: int = 5,
    l2: float = 1e-2,
    draws: int = 20,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[SparseResult, ...]:
    """Choose the k most telling coordinates on some groups, fit a logistic probe of them there, and score the others.

    A coordinate tells as much as its variance between the classes exceeds that within them (the F ratio; for two
    classes, the squared standardised difference of means). Coordinates are chosen one by one and not together, so two
    that say the same are both taken. A fact that few coordinates carry is stored in a basis that the model itself uses;
    one that needs many may be as easy to read, in some direction.

    Args:
        acts: One row per observation; neurons or SAE latents suit best, where single coordinates have a meaning.
        labels: Two or more classes.
        groups: What may not be split: item, entity or distinct statement, never a token.
        ks: Numbers of coordinates.
        train: A ready-made split (True on training rows) instead of folds.
        folds: Parts of the cross-validation by group.
        l2: Penalty `l2 / 2 |w|^2` added to the mean loss.
        draws: Shuffles behind the control.
        resamples: Bootstrap draws of the groups.
        seed: Of folds, shuffles and bootstrap.

    Raises:
        VestigeError: A k is not between 1 and the number of coordinates, or labels or groups do not fit.

    Source:
        Gurnee et al. 2023, arXiv:2305.01610, with one ranking of several that they compare.
    """
    samples = check_samples(acts, labels, groups)
    d_model = samples.acts.shape[1]
    wrong = next((k for k in ks if not 1 <= k <= d_model), None)
    if wrong is not None or not ks:
        got = "none" if wrong is None else wrong
        raise VestigeError(f"k is a number of coordinates from 1 to {d_model}, got {got}")
    if l2 <= 0:
        raise VestigeError(f"l2 is a penalty above 0, got {l2}")
    where = assign_folds(samples, folds=folds, seed=seed) if train is None else folds_of_split(samples, train)
    order = telling(samples)
    return tuple(
        _one(samples, where, order, k=k, l2=l2, draws=draws, resamples=resamples, seed=seed) for k in dict.fromkeys(ks)
    )


def telling(samples: Samples) -> Int[np.ndarray, " d_model"]:
    """Return the coordinates, most telling first; those that do not vary last."""
    counts = np.bincount(samples.labels, minlength=samples.n_classes)
    sums = np.zeros((samples.n_classes, samples.acts.shape[1]))
    np.add.at(sums, samples.labels, samples.acts)
    means = sums / counts[:, None].clip(1)
    between = (counts[:, None] * np.square(means - samples.acts.mean(0))).sum(0)
    within = np.square(samples.acts - means[samples.labels]).sum(0)
    varies = between + within > 0
    ratio = np.where(varies, between / np.where(varies, between + within, 1.0), -1.0)
    ranked: Int[np.ndarray, " d_model"] = np.argsort(-ratio, kind="stable")
    return ranked


def _one(
    samples: Samples,
    where: Int[np.ndarray, " n"],
    order: Int[np.ndarray, " d_model"],
    *,
    k: int,
    l2: float,
    draws: int,
    resamples: int,
    seed: int,
) -> SparseResult:
    rule = _rule(k, l2)
    auc, low, high = auc_with_interval(
        held_out_scores(rule, samples, where), samples, where, resamples=resamples, seed=seed
    )
    chance = controls(rule, samples, where, draws=draws, seed=seed)
    chosen = tuple(int(c) for c in order[:k])
    return SparseResult(k, auc, low, high, chance.shuffled_auc, chance.shuffled_high, chosen)


def _rule(k: int, l2: float) -> Fit:
    def rule(part: Samples) -> Scorer:
        chosen = telling(part)[:k]
        weight, bias = standardised_logistic(part.acts[:, chosen], part.labels, l2=l2)
        return lambda acts: np.asarray(acts[:, chosen] @ weight + bias)

    return rule
