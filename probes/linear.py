"""Linear probes: what can be read off activations, on held-out groups and next to what chance reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked import VestigeError
from probes.auc import within_fold_auc
from probes.held_out import Fit, Scorer, auc_with_interval, controls, held_out_scores, is_positive, one_blas_thread
from probes.samples import Duplicates, Groups, Labels, Samples, assign_folds, check_samples, folds_of_split

L2_GRID = (1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class ProbeResult:
    """What a linear probe reads on held-out groups. With more than two classes every AUC is the mean of one class
    against the rest.

    Read it beside the same probe on a retrained or never-taught model: what a probe learns itself is above chance as
    well.

    Args:
        auc: Chance that a positive row outscores a negative row of the same fold.
        low: Lower end of the 95 % interval of a bootstrap over groups.
        high: Upper end.
        shuffled_auc: Mean AUC of the same probe on shuffled labels.
        shuffled_low: 2.5th percentile over the shuffles.
        shuffled_high: 97.5th percentile.
        random_direction_auc: Mean AUC of random directions, each pointed the way that suits the training rows.
        accuracy: Share of held-out rows given their class.
        majority: Share of the most frequent class among them: the floor of the accuracy.
        l2: Penalty that was chosen on training rows (the median over folds).
        n_train: Rows that a fold trains on, on average.
        n_test: Rows that were scored held out.
        n_groups: Groups they belong to.
        n_classes: Number of classes.
        n_duplicates: Rows that repeat a row of another group.
        n_conflicts: Rows that equal a row with another label.
    """

    auc: float
    low: float
    high: float
    shuffled_auc: float
    shuffled_low: float
    shuffled_high: float
    random_direction_auc: float
    accuracy: float
    majority: float
    l2: float
    n_train: int
    n_test: int
    n_groups: int
    n_classes: int
    n_duplicates: int
    n_conflicts: int


@one_blas_thread()
def fit_linear_probe(
    acts: Float[Tensor, "n d_model"],
    labels: Labels,
    *,
    groups: Groups,
    train: Sequence[bool] | Tensor | None = None,
    folds: int = 5,
    l2: Sequence[float] = L2_GRID,
    draws: int = 20,
    resamples: int = 1000,
    duplicates: Duplicates = "refuse",
    seed: int = 0,
) -> ProbeResult:
    """Fit a logistic probe on some groups and score the others, over all folds.

    Activations are standardised on the training rows. The penalty is chosen there too, on a further split by group; the
    shuffled controls are fitted with the penalty of the real labels.

    Args:
        acts: One row per observation.
        labels: Two or more classes.
        groups: What may not be split: item, entity or distinct statement, never a token.
        train: A ready-made split (True on training rows) instead of folds.
        folds: Parts of the cross-validation by group.
        l2: Penalties to choose from, each `l2 / 2 |w|^2` added to the mean loss.
        draws: Shuffles and random directions behind the controls.
        resamples: Bootstrap draws of the groups.
        duplicates: `refuse` raises on a row that occurs in two groups or under two labels; `allow` counts them.
        seed: Of folds, shuffles, random directions and bootstrap.

    Raises:
        VestigeError: Labels or groups do not fit, rows occur twice, a group is in train and test, or a class lies in
            one group only.
    """
    if not l2 or min(l2) <= 0:
        raise VestigeError(f"l2 is a list of penalties above 0, got {tuple(l2)}")
    samples = check_samples(acts, labels, groups, duplicates=duplicates)
    where = assign_folds(samples, folds=folds, seed=seed) if train is None else folds_of_split(samples, train)
    chosen = {int(f): _choose(samples, where != f, l2, seed=seed) for f in np.unique(where[where >= 0])}
    penalty = float(np.median(list(chosen.values())))
    scores = np.full((len(where), 1 if samples.n_classes == 2 else samples.n_classes), np.nan)
    for fold, strength in chosen.items():
        only = np.where(where == fold, 0, -1)
        scores[where == fold] = held_out_scores(_rule(strength), samples, only)[where == fold]
    auc, low, high = auc_with_interval(scores, samples, where, resamples=resamples, seed=seed)
    chance = controls(_rule(penalty), samples, where, draws=draws, seed=seed)
    tested = where >= 0
    guess = scores.argmax(-1) if samples.n_classes > 2 else (scores[:, 0] > 0).astype(np.int64)
    return ProbeResult(
        auc=auc,
        low=low,
        high=high,
        shuffled_auc=chance.shuffled_auc,
        shuffled_low=chance.shuffled_low,
        shuffled_high=chance.shuffled_high,
        random_direction_auc=chance.random_direction_auc,
        accuracy=float((guess == samples.labels)[tested].mean()),
        majority=float(np.bincount(samples.labels[tested]).max() / tested.sum()),
        l2=penalty,
        n_train=round(float(np.mean([(where != f).sum() for f in chosen]))),
        n_test=int(tested.sum()),
        n_groups=len(np.unique(samples.groups[tested])),
        n_classes=samples.n_classes,
        n_duplicates=samples.n_duplicates,
        n_conflicts=samples.n_conflicts,
    )


def probe_per_layer(
    acts: Float[Tensor, "n n_layers d_model"],
    labels: Labels,
    *,
    groups: Groups,
    folds: int = 5,
    l2: Sequence[float] = L2_GRID,
    draws: int = 20,
    resamples: int = 1000,
    duplicates: Duplicates = "refuse",
    seed: int = 0,
) -> tuple[ProbeResult, ...]:
    """Fit one probe per layer on the same folds; arguments as in `fit_linear_probe`.

    Raises:
        VestigeError: `acts` is not `[n, n_layers, d_model]`, or a probe refuses.
    """
    if acts.ndim != 3:
        raise VestigeError(f"probe_per_layer takes activations [n, n_layers, d_model], got {tuple(acts.shape)}")
    return tuple(
        fit_linear_probe(
            acts[:, layer],
            labels,
            groups=groups,
            folds=folds,
            l2=l2,
            draws=draws,
            resamples=resamples,
            duplicates=duplicates,
            seed=seed,
        )
        for layer in range(acts.shape[1])
    )


def standardised_logistic(
    acts: Float[np.ndarray, "n d_model"], labels: Int[np.ndarray, " n"], *, l2: float
) -> tuple[Float[np.ndarray, "d_model classes"], Float[np.ndarray, " classes"]]:
    """Fit a (multinomial) logistic regression on standardised rows; return weights and biases for the rows as they are.

    For two classes there is one column, the log odds of the second. A column of activations that does not vary gets
    weight 0.
    """
    from sklearn.linear_model import LogisticRegression

    mean, spread = acts.mean(0), acts.std(0)
    varies = spread > 0
    scale = np.where(varies, spread, 1.0)
    model = LogisticRegression(C=1.0 / (l2 * len(acts)), max_iter=5000, tol=1e-6)
    model.fit((acts - mean) / scale, labels)
    weight = np.where(varies, model.coef_ / scale, 0.0).T
    return np.asarray(weight), np.asarray(model.intercept_ - mean @ weight)


def _rule(l2: float) -> Fit:
    def rule(part: Samples) -> Scorer:
        weight, bias = standardised_logistic(part.acts, part.labels, l2=l2)
        return lambda acts: np.asarray(acts @ weight + bias)

    return rule


def _choose(samples: Samples, train: Bool[np.ndarray, " n"], grid: Sequence[float], *, seed: int) -> float:
    """Pick the penalty with the best AUC on a further split of the training rows; the strongest where none can be
    made."""
    if len(grid) == 1:
        return float(grid[0])
    part = Samples(samples.acts[train], samples.labels[train], samples.groups[train])
    try:
        inner = assign_folds(part, folds=3, seed=seed)
    except VestigeError:
        return float(max(grid))
    aucs = [within_fold_auc(held_out_scores(_rule(x), part, inner), is_positive(part), inner) for x in grid]
    # Of equals the stronger penalty: it trusts the training rows less.
    return float(max(zip(np.nan_to_num(aucs), grid, strict=True))[1])
