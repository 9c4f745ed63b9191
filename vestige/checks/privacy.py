"""Can somebody tell from the model that the forget set was trained on?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vestige.evidence import Evidence
from vestige.metrics.bootstrap import Interval
from vestige.metrics.privacy_intervals import MemberScores, auc_interval, priv_leak_interval, s_mia_interval
from vestige.metrics.utility import harmonic_mean
from vestige.result import Orientation, Result

NAMES = ("loss", "zlib", "min_k", "min_k_plus_plus")
_NO_HOLDOUT = "needs holdout items: of the same kind as the forget items, and trained on by no subject"
_NO_SECOND = "needs a second model that never learnt the facts (a retrained one) to compare with"
_UTILITY = "read it next to utility: a collapsed model passes through the retrained model's value"


def membership(evidence: Evidence) -> list[Result]:
    """Membership AUC of forget against holdout items by four scores, PrivLeak by Min-40%, and s_mia over all four.

    An AUC of 0.5 is chance where the two sets are alike; what they differ by without any training shows in the control.
    PrivLeak and s_mia (harmonic mean of the four) compare with the retrained model, and that one with the never-taught
    model.
    """
    members = {name: reading.members for name, reading in evidence.readings.items()}
    scores = {name: None if reading is None else reading.scores() for name, reading in members.items()}
    columns = [subject.name for subject in evidence.subjects]
    control = evidence.control
    results: list[Result] = []
    for score in NAMES:
        found = [_auc(name, score, scores[name], evidence.seed) for name in columns]
        beside = next((result.estimate for result in found if result.subject == control), None)
        results += [replace(result, control=beside) for result in found]
    for compare in (_priv_leak, _s_mia):
        found = [compare(evidence, name, scores) for name in columns]
        beside = next((result.estimate for result in found if result.subject == control), None)
        results += [replace(result, control=beside) for result in found]
    return results


Scores = Mapping[str, Mapping[str, MemberScores] | None]


def _auc(name: str, score: str, scores: Mapping[str, MemberScores] | None, seed: int) -> Result:
    if scores is None:
        return Result(f"membership_{score}", name, None, floor=0.5, higher_is="leaky", note=_NO_HOLDOUT)
    return _result(f"membership_{score}", name, auc_interval(scores[score], seed=seed), floor=0.5, higher_is="leaky")


def _priv_leak(evidence: Evidence, name: str, scores: Scores) -> Result:
    mine, theirs = scores[name], _reference(evidence, name, scores)
    if mine is None or theirs is None:
        return _missing("priv_leak", name, mine)
    interval = priv_leak_interval(mine["min_k"], theirs["min_k"], seed=evidence.seed)
    note = "" if interval.estimate is None else f"0 is the retrained model, -100 full recognition; {_UTILITY}"
    return _result("priv_leak", name, interval, floor=None, higher_is="forgotten", note=note)


def _s_mia(evidence: Evidence, name: str, scores: Scores) -> Result:
    mine, theirs = scores[name], _reference(evidence, name, scores)
    if mine is None or theirs is None:
        return _missing("s_mia", name, mine)
    parts = {score: s_mia_interval(mine[score], theirs[score], seed=evidence.seed) for score in NAMES}
    known = [part.estimate for part in parts.values() if part.estimate is not None]
    if len(known) < len(parts):
        why = next(f"{score}: {part.note}" for score, part in parts.items() if part.estimate is None)
        return Result("s_mia", name, None, higher_is="forgotten", note=why)
    said = ", ".join(f"{score} {part.estimate:.3f}" for score, part in parts.items())
    return Result(
        "s_mia",
        name,
        harmonic_mean(known),
        n=parts[NAMES[0]].n,
        higher_is="forgotten",
        note=f"harmonic mean of {said}; {_UTILITY}",
    )


def _reference(evidence: Evidence, name: str, scores: Scores) -> Mapping[str, MemberScores] | None:
    kinds = [kind for kind in ("retrained", "never") for s in evidence.subjects if s.kind == kind and s.name != name]
    reference = evidence.first(kinds[0]) if kinds else None
    return None if reference is None else scores[reference]


def _missing(check: str, name: str, mine: Mapping[str, MemberScores] | None) -> Result:
    return Result(check, name, None, higher_is="forgotten", note=_NO_HOLDOUT if mine is None else _NO_SECOND)


def _result(
    check: str, name: str, interval: Interval, *, floor: float | None, higher_is: Orientation, note: str = ""
) -> Result:
    return Result(
        check,
        name,
        interval.estimate,
        interval.low,
        interval.high,
        n=interval.n,
        floor=floor,
        higher_is=higher_is,
        note="; ".join(filter(None, (interval.note, note))),
    )
