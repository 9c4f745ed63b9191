"""Is the knowledge hidden rather than gone? The bare weights against the deployed system."""

from __future__ import annotations

from vestige.checks.probability import answer_probabilities
from vestige.evidence import Evidence, with_control
from vestige.metrics import suppression
from vestige.result import Result


def suppression_index(evidence: Evidence) -> list[Result]:
    """(raw - deployed) / (original - never taught) in forget probability: 1 where stripping hooks and gates brings everything back, 0 for edits of the weights."""
    control = evidence.control
    original = answer_probabilities(evidence.original.forget.answers)
    results = []
    for subject in evidence.subjects:
        if control is None:
            why = "needs a model that never learnt the facts (never-taught or retrained)"
            results.append(Result("suppression_index", subject.name, None, higher_is="leaky", note=why))
            continue
        reading = evidence.readings[subject.name]
        interval = suppression.suppression_index(
            raw=answer_probabilities(reading.raw_forget),
            view=answer_probabilities(reading.forget.answers),
            original=original,
            control=answer_probabilities(evidence.readings[control].forget.answers),
            seed=evidence.seed,
        )
        results.append(
            Result("suppression_index", subject.name, interval.estimate, interval.low, interval.high, n=interval.n, floor=0.0, higher_is="leaky", note=interval.note)
        )
    return with_control(evidence, results)
