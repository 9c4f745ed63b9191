"""Is the knowledge hidden rather than gone? The bare weights against the deployed system."""

from __future__ import annotations

from vestige.checks.probability import answer_probabilities
from vestige.evidence import Evidence, with_control
from vestige.metrics import suppression
from vestige.result import Result

_NO_CONTROL = "needs a model that never learnt the facts (never-taught or retrained)"


def suppression_index(evidence: Evidence) -> list[Result]:
    """(raw - deployed) / (original - never taught) in forget probability: 1 where stripping hooks and gates brings
    everything back, 0 for edits of the weights."""
    control = evidence.control
    if control is None:
        return [
            Result("suppression_index", s.name, None, higher_is="leaky", floor=0.0, note=_NO_CONTROL)
            for s in evidence.subjects
        ]
    return with_control(evidence, [_one(evidence, subject.name, control) for subject in evidence.subjects])


def _one(evidence: Evidence, name: str, control: str) -> Result:
    reading = evidence.readings[name]
    interval = suppression.suppression_index(
        raw=answer_probabilities(reading.raw_forget),
        view=answer_probabilities(reading.forget.answers),
        original=answer_probabilities(evidence.original.forget.answers),
        control=answer_probabilities(evidence.readings[control].forget.answers),
        seed=evidence.seed,
    )
    return Result(
        "suppression_index",
        name,
        interval.estimate,
        interval.low,
        interval.high,
        n=interval.n,
        floor=0.0,
        higher_is="leaky",
        note=interval.note,
    )
