"""Linear read-outs of a concept: fit one, then see what it is worth on items it never saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from hooked import VestigeError
from probes.held_out import Fit, Scorer, auc_with_interval, controls, held_out_scores, one_blas_thread
from probes.linear import standardised_logistic
from probes.samples import Duplicates, Groups, Labels, Samples, assign_folds, check_samples, folds_of_split


@dataclass(frozen=True)
class Direction:
    """A linear read-out of a concept. Build one with `mean_difference`, `paired_pca` or `logistic`.

    Args:
        vector: Normal of the boundary, of any norm, in the units of the activations it was fitted on.
        threshold: Score at the boundary.
        site: Where the activations come from.
    """

    vector: Float[Tensor, " d_model"]
    threshold: float
    site: str = ""

    def __call__(self, acts: Float[Tensor, "*n d_model"]) -> Float[Tensor, "*n"]:
        """Return signed scores; positive means the positive class."""
        return acts @ self.vector.to(acts) - self.threshold


# Called as `fit(acts, labels, groups=groups)`.
FitDirection = Callable[..., Direction]


@dataclass(frozen=True)
class HeldOutAUC:
    """What a way of fitting directions is worth on held-out groups.

    Args:
        auc: Chance that a positive row outscores a negative row of the same fold.
        low: Lower end of the 95 % interval of a bootstrap over groups.
        high: Upper end.
        shuffled_auc: Mean AUC of the same fit on shuffled labels.
        shuffled_low: 2.5th percentile over the shuffles.
        shuffled_high: 97.5th percentile.
        random_direction_auc: Mean AUC of random directions.
        n_test: Rows that were scored held out.
        n_groups: Groups they belong to.
    """

    auc: float
    low: float
    high: float
    shuffled_auc: float
    shuffled_low: float
    shuffled_high: float
    random_direction_auc: float
    n_test: int
    n_groups: int


def mean_difference(
    acts: Float[Tensor, "n d_model"], labels: Labels, *, groups: Groups | None = None, site: str = ""
) -> Direction:
    """Point from the mean of the negatives to the mean of the positives; the threshold lies half-way.

    Args:
        acts: One row per observation.
        labels: Two classes; of bools True is positive, otherwise the larger value.
        groups: Not used; taken so that every fit is called alike.
        site: Noted in the result.

    Raises:
        VestigeError: There are not two classes, or their means coincide.

    Source:
        Marks and Tegmark 2023, arXiv:2310.06824, without their whitening.
    """
    rows, positive = _two_classes(acts, labels)
    high, low = rows[positive].mean(0), rows[~positive].mean(0)
    return _direction(high - low, float((high - low) @ (high + low) / 2), acts, site)


@one_blas_thread()
def paired_pca(
    acts: Float[Tensor, "n d_model"], labels: Labels, *, groups: Groups | None = None, site: str = ""
) -> Direction:
    """Take the first principal axis of the differences between the positives and the negatives of each group.

    The differences are not centred: they all point from negative to positive, so centring would remove the very
    direction that is looked for (the published recipe flips half of the pairs at random first, which has the same
    principal axis in expectation). The axis points to the positives, and the threshold lies half-way between the class
    means.

    Args:
        acts: One row per observation.
        labels: Two classes, as in `mean_difference`.
        groups: Pairs: every group holds both classes; several rows of a class are averaged.
        site: Noted in the result.

    Raises:
        VestigeError: There are not two classes, a group lacks one, or no group differs.

    Source:
        Zou et al. 2023, *Representation Engineering*, arXiv:2310.01405, section 3.1.
    """
    rows, positive = _two_classes(acts, labels)
    if groups is None:
        raise VestigeError("paired_pca needs groups, which say what is a pair: one value per row")
    samples = check_samples(acts, labels, groups)
    owner = torch.as_tensor(samples.groups)

    def means(wanted: Tensor) -> Tensor:
        count = torch.bincount(owner[wanted], minlength=samples.n_groups)
        if not bool((count > 0).all()):
            lacking = int((owner == int((count == 0).nonzero()[0])).nonzero()[0])
            raise VestigeError(
                f"paired_pca needs a positive and a negative in every group; the group of row {lacking} lacks one"
            )
        total = torch.zeros(samples.n_groups, rows.shape[1], dtype=rows.dtype).index_add_(
            0, owner[wanted], rows[wanted]
        )
        return total / count[:, None]

    differences = means(positive) - means(~positive)
    axis = torch.from_numpy(np.linalg.svd(differences.numpy(), full_matrices=False)[2][0].copy())
    high, low = rows[positive].mean(0), rows[~positive].mean(0)
    if not bool(differences.any()):
        axis = torch.zeros_like(axis)
    axis = axis if float(axis @ (high - low)) >= 0 else -axis
    return _direction(axis, float(axis @ (high + low) / 2), acts, site)


@one_blas_thread()
def logistic(
    acts: Float[Tensor, "n d_model"], labels: Labels, *, groups: Groups | None = None, site: str = "", l2: float = 0.01
) -> Direction:
    """Fit a logistic regression on standardised activations and express it in their own units.

    Args:
        acts: One row per observation.
        labels: Two classes, as in `mean_difference`.
        groups: Not used; taken so that every fit is called alike.
        site: Noted in the result.
        l2: Penalty `l2 / 2 |w|^2` added to the mean loss, on the standardised weights.

    Raises:
        VestigeError: There are not two classes, or no activation varies.
    """
    rows, positive = _two_classes(acts, labels)
    weight, bias = standardised_logistic(rows.numpy(), positive.numpy().astype(np.int64), l2=l2)
    return _direction(torch.from_numpy(weight[:, 0].copy()), -float(bias[0]), acts, site)


@one_blas_thread()
def held_out_auc(
    fit: FitDirection,
    acts: Float[Tensor, "n d_model"],
    labels: Labels,
    *,
    groups: Groups,
    train: Sequence[bool] | Tensor | None = None,
    folds: int = 5,
    draws: int = 20,
    resamples: int = 1000,
    duplicates: Duplicates = "refuse",
    seed: int = 0,
) -> HeldOutAUC:
    """Fit directions on some groups and score the others.

    Args:
        fit: `mean_difference`, `paired_pca`, `logistic`, or a function like them.
        acts: One row per observation.
        labels: Two classes.
        groups: What may not be split: item, entity or distinct statement, never a token.
        train: A ready-made split (True on training rows) instead of folds.
        folds: Parts of the cross-validation by group.
        draws: Shuffles and random directions behind the controls.
        resamples: Bootstrap draws of the groups.
        duplicates: As in `check_samples`.
        seed: Of folds, shuffles, random directions and bootstrap.

    Raises:
        VestigeError: Labels or groups do not fit, rows occur twice, a group is in train and test, or a class lies in
            one group only.
    """
    samples = check_samples(acts, labels, groups, duplicates=duplicates)
    _two_classes(acts, labels)
    where = assign_folds(samples, folds=folds, seed=seed) if train is None else folds_of_split(samples, train)
    rule = _rule(fit)
    auc, low, high = auc_with_interval(
        held_out_scores(rule, samples, where), samples, where, resamples=resamples, seed=seed
    )
    chance = controls(rule, samples, where, draws=draws, seed=seed)
    return HeldOutAUC(
        auc=auc,
        low=low,
        high=high,
        shuffled_auc=chance.shuffled_auc,
        shuffled_low=chance.shuffled_low,
        shuffled_high=chance.shuffled_high,
        random_direction_auc=chance.random_direction_auc,
        n_test=int((where >= 0).sum()),
        n_groups=len(np.unique(samples.groups[where >= 0])),
    )


def _rule(fit: FitDirection) -> Fit:
    def rule(part: Samples) -> Scorer:
        direction = fit(
            torch.from_numpy(part.acts), torch.from_numpy(part.labels), groups=torch.from_numpy(part.groups)
        )
        return lambda acts: direction(torch.from_numpy(acts)).numpy()[:, None]

    return rule


def _two_classes(acts: Tensor, labels: Labels) -> tuple[Float[Tensor, "n d_model"], Tensor]:
    samples = check_samples(acts, labels, range(len(acts)))
    if samples.n_classes != 2:
        raise VestigeError(f"a direction separates two classes, got {samples.n_classes}; fit_linear_probe takes more")
    return torch.from_numpy(samples.acts), torch.from_numpy(samples.labels == 1)


def _direction(vector: Tensor, threshold: float, acts: Tensor, site: str) -> Direction:
    if not bool(vector.any()):
        raise VestigeError("the two classes have the same activations on average, so no direction separates them")
    return Direction(vector.to(acts.device, acts.dtype), threshold, site)
