"""Truth ratio, and the forget quality test built on it."""

from __future__ import annotations

import math

import numpy as np

from vestige.evidence import Evidence, item_means, with_control
from vestige.metrics import forget_quality as ks
from vestige.metrics import truth_ratio as ratios
from vestige.reading import Reading, SplitReading
from vestige.result import Result

SIGNIFICANT = 0.05
_NO_WRONG = "no item has wrong answers to compare with (column perturbed_answer)"
_NO_SECOND = "no second model that never learnt the facts was given to compare with"


def truth_ratio(evidence: Evidence) -> list[Result]:
    """Mean of min(R, 1/R) over forget items: 1 where the model does not tell the right answer from wrong ones."""

    def closeness(reading: Reading) -> list[float]:
        found = item_ratios(reading.forget)
        return [float(v) for v in ratios.closer_to_1(found)] if found else []

    return item_means(evidence, "truth_ratio", closeness, higher_is="forgotten", missing=_NO_WRONG)


def forget_quality(evidence: Evidence) -> list[Result]:
    """Two-sample Kolmogorov-Smirnov p-value between a subject's truth ratios and those of a model that never learnt the
    facts.

    The reference is the retrained model; the retrained model itself is compared with the never-taught one, since
    against itself p is 1 by construction.
    """
    return with_control(evidence, [_compared(evidence, subject.name) for subject in evidence.subjects])


def item_ratios(split: SplitReading) -> list[float]:
    """Return the truth ratio of each item that has wrong answers; 0/0, where right and wrong answers all have
    probability 0, is left out."""
    found = []
    for base, wrong in zip(split.bases, split.wrong, strict=True):
        losses = [score.nll for score in wrong]
        if losses and not (base.nll == math.inf and np.mean(losses) == math.inf):
            # A ratio beyond float range still has to take part in the test, as the largest finite one.
            found.append(float(np.clip(ratios.truth_ratio(base.nll, losses), 1e-300, 1e300)))
    return found


def _compared(evidence: Evidence, name: str) -> Result:
    reference = evidence.first("retrained") or evidence.first("never")
    if name == reference:
        reference = next((s.name for s in evidence.subjects if s.kind == "never" and s.name != name), None)
    mine = item_ratios(evidence.readings[name].forget)
    if not mine or reference is None:
        return Result("forget_quality", name, None, higher_is="forgotten", note=_NO_SECOND if mine else _NO_WRONG)
    theirs = item_ratios(evidence.readings[reference].forget)
    if not theirs or ks.smallest_p(len(mine), len(theirs)) > SIGNIFICANT:
        why = f"{len(mine)} against {len(theirs)} items can never give p below {SIGNIFICANT}; give at least 4"
        return Result("forget_quality", name, None, n=len(mine), higher_is="forgotten", note=why)
    test = ks.forget_quality(mine, theirs)
    note = f"log10 p = {test.log10_p:.2f}, D = {test.statistic:.2f}, against '{reference}'"
    note += f"; with n = {test.n} no p lies below 10^{test.floor_log10_p:.1f}"
    if test.at_floor:
        note += ", and models at that floor cannot be ranked"
    return Result(
        "forget_quality",
        name,
        test.p,
        n=test.n,
        floor=ks.smallest_p(test.n, test.m),
        higher_is="forgotten",
        per_item=tuple(mine),
        note=note,
    )
