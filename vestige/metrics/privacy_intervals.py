"""Membership AUCs and what is made of them, with intervals over items, and with a reason in place of a number that its
denominator makes meaningless."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from hooked.errors import VestigeError

from .bootstrap import Interval
from .privacy import auc_member, null_standard_error, won_pairs

_MIN_ERRORS = 3.0

AUCs = Float[np.ndarray, " n"]


@dataclass(frozen=True)
class MemberScores:
    """The scores of one model on the two sets, lower for what looks like training data (`vestige.metrics.membership`).

    Args:
        forget: One per forget item.
        holdout: One per item of the same kind that the model was not trained on.
    """

    forget: tuple[float, ...]
    holdout: tuple[float, ...]


def auc_interval(scores: MemberScores, *, seed: int = 0, resamples: int = 1000, level: float = 0.95) -> Interval:
    """Return `auc_member` with its interval over items; None where every score is the same.

    Its note says where the value lies more than 3 null standard errors below 0.5: there the forget set stands out as
    clearly as training data would.

    Args:
        scores: Of one model.
        seed: Of the resampling, forget and holdout items apart.
        resamples: Number of resamples.
        level: Coverage of the interval.

    Raises:
        VestigeError: An empty set, or NaN.
    """
    auc = auc_member(scores.forget, scores.holdout)
    if (flat := _flat(scores)) is not None:
        return flat
    error = null_standard_error(len(scores.forget), len(scores.holdout))
    note = ""
    if auc < 0.5 - _MIN_ERRORS * error:
        note = (
            f"{(0.5 - auc) / error:.1f} null standard errors below chance: "
            "the forget set stands out as less likely than texts that were never seen"
        )
    draws = _resampled([scores], seed=seed, resamples=resamples)[0]
    return _interval(auc, draws, scores, level, note)


def priv_leak_interval(
    unlearned: MemberScores,
    retrained: MemberScores | None,
    *,
    assume_ref: float | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Return `priv_leak` with its interval; the same items are drawn for both models.

    None where one minus the retrained model's AUC is below 3 null standard errors, since dividing by that gives any
    number, and where a model gives every text the same score.

    Args:
        unlearned: Scores of the unlearned model.
        retrained: Of the retrained one, on the same items.
        assume_ref: An AUC to take in its place, e.g. 0.5 for two sets that are surely alike; then `retrained` is None.
        seed: Of the resampling.
        resamples: Number of resamples.
        level: Coverage of the interval.

    Raises:
        VestigeError: Neither or both of `retrained` and `assume_ref` are given, or the items differ.
    """
    return _compared(
        unlearned,
        retrained,
        assume_ref,
        denominator=lambda reference: 1 - reference,
        statistic=lambda auc, reference: 100 * (reference - auc) / (1 - reference),
        what="one minus the retrained model's AUC",
        settings=(seed, resamples, level),
    )


def s_mia_interval(
    unlearned: MemberScores,
    retrained: MemberScores | None,
    *,
    assume_ref: float | None = None,
    seed: int = 0,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Return `s_mia` with its interval; None where the retrained model's AUC is below 3 null standard errors. The other
    arguments and all errors are those of `priv_leak_interval`."""
    return _compared(
        unlearned,
        retrained,
        assume_ref,
        denominator=lambda reference: reference,
        statistic=lambda auc, reference: 1 - np.minimum(np.abs(auc - reference) / reference, 1),
        what="the retrained model's AUC",
        settings=(seed, resamples, level),
    )


def _compared(
    unlearned: MemberScores,
    retrained: MemberScores | None,
    assume_ref: float | None,
    *,
    denominator: Callable[[float], float],
    statistic: Callable[[AUCs, AUCs], AUCs],
    what: str,
    settings: tuple[int, int, float],
) -> Interval:
    if (retrained is None) == (assume_ref is None):
        raise VestigeError(
            "a comparison needs the scores of a retrained model, or assume_ref= (an AUC, 0.5 for two sets that are "
            f"surely alike) in their place; got {'neither' if retrained is None else 'both'}"
        )
    models = [unlearned, *([] if retrained is None else [retrained])]
    sizes = {(len(scores.forget), len(scores.holdout)) for scores in models}
    if len(sizes) > 1:
        raise VestigeError(f"both models must score the same items, got (forget, holdout) items {sorted(sizes)}")
    reference = auc_member(retrained.forget, retrained.holdout) if retrained is not None else assume_ref
    if reference is None or not 0 <= reference <= 1:
        raise VestigeError(f"assume_ref is an AUC in [0, 1], got {reference}")
    for scores in models:
        if (flat := _flat(scores)) is not None:
            return flat
    error = null_standard_error(*sizes.pop())
    if (divisor := denominator(reference)) < _MIN_ERRORS * error:
        why = f"not identified: {what} is {divisor:.3g}, below 3 null standard errors of {error:.3g}"
        return Interval(None, None, None, None, _size(unlearned), why)
    seed, resamples, level = settings
    drawn = _resampled(models, seed=seed, resamples=resamples)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = statistic(drawn[0], drawn[1] if retrained is not None else np.full(resamples, reference))
    mine = np.array([auc_member(unlearned.forget, unlearned.holdout)])
    return _interval(float(statistic(mine, np.array([reference]))[0]), draws, unlearned, level, "")


def _resampled(models: Sequence[MemberScores], *, seed: int, resamples: int) -> list[AUCs]:
    """AUCs of resampled items, the same items for every model."""
    streams = np.random.default_rng(seed).spawn(2)
    n, m = len(models[0].forget), len(models[0].holdout)
    counts = [
        stream.multinomial(size, np.full(size, 1 / size), size=resamples)
        for stream, size in zip(streams, (n, m), strict=True)
    ]
    wins = [won_pairs(scores.forget, scores.holdout) for scores in models]
    return [((counts[0] @ won) * counts[1]).sum(1) / (n * m) for won in wins]


def _interval(estimate: float, draws: AUCs, scores: MemberScores, level: float, note: str) -> Interval:
    if not 0 < level < 1:
        raise VestigeError(f"level must be between 0 and 1, got {level}")
    if min(len(scores.forget), len(scores.holdout)) < 2:
        return Interval(estimate, None, None, None, _size(scores), "no interval: it takes at least 2 items a side")
    draws = draws[np.isfinite(draws)]
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2])
    return Interval(estimate, float(low), float(high), float(draws.std(ddof=1)), _size(scores), note)


def _flat(scores: MemberScores) -> Interval | None:
    """The result for a model that gives every text the same score."""
    everything = (*scores.forget, *scores.holdout)
    if min(everything) < max(everything):
        return None
    why = f"not identified: every score is {everything[0]:.3g}, so the model tells no text from another"
    return Interval(None, None, None, None, _size(scores), why)


def _size(scores: MemberScores) -> int:
    return len(scores.forget) + len(scores.holdout)
