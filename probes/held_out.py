"""Score a fitting rule on rows it never saw, next to what shuffled labels and random directions score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from hooked import VestigeError
from probes.auc import bootstrap_auc, within_fold_auc
from probes.samples import Samples, shuffled_labels

Rows = Float[np.ndarray, "n d_model"]
Scorer = Callable[[Float[np.ndarray, "n d_model"]], Float[np.ndarray, "n classes"]]
Fit = Callable[[Samples], Scorer]


@dataclass(frozen=True)
class Controls:
    """What chance scores on the same rows and folds.

    Args:
        shuffled_auc: Mean AUC of the same fit on shuffled labels.
        shuffled_low: 2.5th percentile over the shuffles.
        shuffled_high: 97.5th percentile.
        random_direction_auc: Mean AUC of random directions, each pointed the way that suits the training rows.
    """

    shuffled_auc: float
    shuffled_low: float
    shuffled_high: float
    random_direction_auc: float


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Keep BLAS on one thread: small fits get up to twenty times slower when split over threads of a busy machine."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(limits=1, user_api="blas"):
        yield


def held_out_scores(fit: Fit, samples: Samples, folds: Int[np.ndarray, " n"]) -> Float[np.ndarray, "n classes"]:
    """Return each tested row's scores under the fit that did not see its fold; NaN for rows that no fit could score."""
    columns = 1 if samples.n_classes == 2 else samples.n_classes
    scores = np.full((len(samples.labels), columns), np.nan)
    for fold in np.unique(folds[folds >= 0]):
        train = folds != fold
        # Shuffled labels of a small sample may leave a training part without a class.
        if len(np.unique(samples.labels[train])) == samples.n_classes:
            part = Samples(samples.acts[train], samples.labels[train], samples.groups[train])
            scores[~train] = fit(part)(samples.acts[~train])
    return scores


def is_positive(samples: Samples) -> Bool[np.ndarray, "n classes"]:
    """Return the column of class 1 for two classes, one column per class for more."""
    if samples.n_classes == 2:
        return np.asarray(samples.labels[:, None] == 1)
    return np.asarray(samples.labels[:, None] == np.arange(samples.n_classes))


def auc_with_interval(
    scores: Float[np.ndarray, "n classes"], samples: Samples, folds: Int[np.ndarray, " n"], *, resamples: int, seed: int
) -> tuple[float, float, float]:
    """Return the AUC and its 95 % interval.

    Raises:
        VestigeError: No fold holds two classes.
    """
    positive = is_positive(samples)
    auc = within_fold_auc(scores, positive, folds)
    if np.isnan(auc):
        raise VestigeError(
            "no test part holds rows of two classes, so there is no AUC; use fewer folds or more groups per class"
        )
    rng = np.random.default_rng([seed, 1])
    return auc, *bootstrap_auc(scores, positive, folds, samples.groups, resamples=resamples, rng=rng)


def controls(fit: Fit, samples: Samples, folds: Int[np.ndarray, " n"], *, draws: int, seed: int) -> Controls:
    """Run the controls on the same folds.

    Args:
        fit: The rule under test; it is fitted anew on every shuffle.
        samples: The rows.
        folds: Their folds.
        draws: Number of shuffles, and of random directions.
        seed: Of both.

    Raises:
        VestigeError: `draws` is below 1.
    """
    if draws < 1:
        raise VestigeError(f"controls need at least one draw, got {draws}; 20 or more give a usable interval")
    rng = np.random.default_rng([seed, 2])
    shuffled = []
    for _ in range(draws):
        fake = Samples(samples.acts, shuffled_labels(samples, rng), samples.groups)
        shuffled.append(within_fold_auc(held_out_scores(fit, fake, folds), is_positive(fake), folds))
    positive = is_positive(samples)
    random = [within_fold_auc(held_out_scores(random_fit(rng), samples, folds), positive, folds) for _ in range(draws)]
    low, high = np.nanquantile(shuffled, [0.025, 0.975])
    return Controls(float(np.nanmean(shuffled)), float(low), float(high), float(np.nanmean(random)))


def random_fit(rng: np.random.Generator) -> Fit:
    """Return a rule that reads one random direction of the standardised rows and only learns which way it points."""
    seed = int(rng.integers(2**62))

    def fit(part: Samples) -> Scorer:
        spread = part.acts.std(0)
        generator = torch.Generator().manual_seed(seed)
        direction = torch.randn(part.acts.shape[1], generator=generator, dtype=torch.float64).numpy()
        direction = direction / np.where(spread > 0, spread, 1.0)
        one = is_positive(part)
        read = part.acts @ direction
        side = [np.sign(read[column].mean() - read[~column].mean()) or 1.0 for column in one.T]
        return lambda acts: np.outer(acts @ direction, side)

    return fit
