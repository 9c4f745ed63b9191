"""How good is a metric? Whether it tells models that know from models that do not, and whether it stays true when a
model is tampered with.

All values are in leak orientation; flip those that are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hooked.errors import VestigeError
from probes.auc import bootstrap_auc, within_fold_auc

from ._checks import check_same_length, numbers


@dataclass(frozen=True)
class Faithfulness:
    """The AUC of a metric between models that know and models that do not.

    Args:
        auc: Chance that a model that knows scores above one that does not; ties count half.
        low: Lower end of the 95 % interval, groups resampled as a whole.
        high: Upper end.
        n_present: Models that know.
        n_absent: Models that do not.
    """

    auc: float
    low: float
    high: float
    n_present: int
    n_absent: int


def faithfulness(
    values: npt.ArrayLike,
    knows: npt.ArrayLike,
    groups: Sequence[object] | None = None,
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> Faithfulness:
    """Return how well a metric tells models that know from those that do not.

    Args:
        values: The metric, one per model `[n]`.
        knows: Whether each model knows `[n]`.
        groups: What the models share, e.g. their concept and world: groups are resampled, not models, since models
            made from the same one are no independent witnesses. Each model is a group of its own when not given.
        seed: Of the resampling.
        resamples: Number of resamples.

    Raises:
        VestigeError: Different lengths, NaN, or one of the two kinds is missing.

    Source:
        Dorna et al. 2025, *OpenUnlearning*, arXiv:2506.12618 (30 models of each kind).
    """
    scores, truth = numbers(values, "values"), np.asarray(knows, dtype=bool)
    check_same_length(values=scores, knows=truth)
    if truth.all() or not truth.any():
        raise VestigeError("faithfulness needs models that know and models that do not")
    labels = list(range(len(scores))) if groups is None else list(groups)
    if len(labels) != len(scores):
        raise VestigeError(f"groups name one group per model: {len(scores)} models, {len(labels)} groups")
    distinct = list(dict.fromkeys(labels))
    index = np.array([distinct.index(label) for label in labels])
    rows, positive, fold = scores[:, None], truth[:, None], np.zeros(len(scores), dtype=np.int64)
    auc = within_fold_auc(rows, positive, fold)
    low, high = bootstrap_auc(rows, positive, fold, index, resamples=resamples, rng=np.random.default_rng(seed))
    return Faithfulness(auc, low, high, int(truth.sum()), int((~truth).sum()))


def relearning_robustness(
    *,
    unlearned: float,
    unlearned_relearned: float,
    retrained: float,
    retrained_relearned: float,
    epsilon: float = 0.0,
) -> float | None:
    """Return 1 where relearning moves the metric on the unlearned model as much as on the retrained one, 0 where only
    one of them moves or they part: `1 - |du - dr| / (|du| + |dr| + epsilon)`. None where neither moves by
    `epsilon`, if that is above 0: what never moves is not robust but deaf.

    Args:
        unlearned: The metric before relearning.
        unlearned_relearned: After it.
        retrained: On the model that never learnt the facts, before.
        retrained_relearned: After the same relearning.
        epsilon: Moves that are small beside it count little, and those below it not at all.

    Source:
        The symmetric form, which also punishes a metric that collapses; Dorna et al. 2025, arXiv:2506.12618, have
        `min(dr / du, 1)`.
    """
    du, dr = unlearned_relearned - unlearned, retrained_relearned - retrained
    if max(abs(du), abs(dr)) < epsilon:
        return None
    moved = abs(du) + abs(dr) + epsilon
    return 1 - abs(du - dr) / moved if moved else 1.0


def quantisation_robustness(*, before: float, after: float, epsilon: float = 0.0) -> float:
    """Return 1 where rounding the weights leaves the metric as it is:
    `1 - |after - before| / (|before| + |after| + epsilon)`.

    Args:
        before: The metric as it was.
        after: With rounded weights.
        epsilon: Values that are small beside it count little.

    Source:
        The symmetric form; Dorna et al. 2025, arXiv:2506.12618, have `min(before / after, 1)`.
    """
    size = abs(before) + abs(after) + epsilon
    return 1 - abs(after - before) / size if size else 1.0


def calibration_error(probabilities: npt.ArrayLike, knows: npt.ArrayLike, *, bins: int = 10) -> float:
    """Return the expected calibration error: how far stated probabilities and frequencies lie apart, in bins of equal
    counts, weighted by the number of models.

    Args:
        probabilities: One per model, in [0, 1] `[n]`.
        knows: Whether each model knows `[n]`.
        bins: At most this many.

    Raises:
        VestigeError: Different lengths, NaN, or a probability outside [0, 1].
    """
    stated, truth = numbers(probabilities, "probabilities"), np.asarray(knows, dtype=float)
    check_same_length(probabilities=stated, knows=truth)
    if stated.min() < 0 or stated.max() > 1:
        raise VestigeError(f"probabilities lie in [0, 1], got {stated.min()} to {stated.max()}")
    order = np.argsort(stated, kind="stable")
    parts = np.array_split(order, min(bins, len(order)))
    return float(sum(len(part) * abs(stated[part].mean() - truth[part].mean()) for part in parts) / len(order))
