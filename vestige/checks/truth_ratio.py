"""Truth ratio, and the forget quality test built on it."""

from __future__ import annotations

import numpy as np

from vestige.evidence import Evidence, item_means, with_control
from vestige.metrics import forget_quality as ks
from vestige.metrics import truth_ratio as ratios
from vestige.reading import SplitReading
from vestige.result import Result

_NO_WRONG = "no item has wrong answers to compare with"


def truth_ratio(evidence: Evidence) -> list[Result]:
    """Mean of min(R, 1/R) over forget items: 1 where the model does not tell the right answer from wrong ones."""

    def closeness(split: SplitReading) -> list[float]:
        found = item_ratios(split)
        return [float(v) for v in ratios.closer_to_1(found)] if found else []

    return item_means(evidence, "truth_ratio", lambda reading: closeness(reading.forget), higher_is="forgotten", missing=_NO_WRONG)


def forget_quality(evidence: Evidence) -> list[Result]:
    """Two-sample Kolmogorov-Smirnov p-value between a subject's truth ratios and those of a model that never learnt the facts.

    The reference is the retrained model; the retrained model itself is compared with the never-taught one, since against itself p is 1 by
    construction.
    """
    results = []
    for subject in evidence.subjects:
        reference = evidence.first("retrained") or evidence.first("never")
        if subject.name == reference:
            reference = next((s.name for s in evidence.subjects if s.kind == "never" and s.name != subject.name), None)
        mine = item_ratios(evidence.readings[subject.name].forget)
        if reference is None or not mine:
            why = _NO_WRONG if not mine else "no second model that never learnt the facts was given to compare with"
            results.append(Result("forget_quality", subject.name, None, higher_is="forgotten", note=why))
            continue
        test = ks.forget_quality(mine, item_ratios(evidence.readings[reference].forget))
        smallest = ks.smallest_log10_p(test.n, test.m)
        note = f"log10 p = {test.log10_p:.2f}, D = {test.statistic:.2f}, against '{reference}'; with n = {test.n} no p lies below 10^{smallest:.1f}"
        results.append(
            Result("forget_quality", subject.name, test.p, n=test.n, floor=ks.smallest_p(test.n, test.m), higher_is="forgotten", per_item=tuple(mine), note=note)
        )
    return with_control(evidence, results)


def item_ratios(split: SplitReading) -> list[float]:
    """Return the truth ratio of each item that has wrong answers."""
    pairs = [(base, wrong) for base, wrong in zip(split.bases, split.wrong, strict=True) if wrong]
    # A ratio beyond float range still has to take part in the test, as the largest finite one.
    return [float(np.clip(ratios.truth_ratio(base.nll, [w.nll for w in wrong]), 1e-300, 1e300)) for base, wrong in pairs]
