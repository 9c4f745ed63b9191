"""How deep is it erased? Hidden states of each subject, patched into the original, which reads the answer off them."""

from __future__ import annotations

import math
from collections.abc import Callable

from vestige.evidence import Evidence, with_control
from vestige.intrinsic.depth import TAU, Depth, Falls, depth
from vestige.intrinsic.patched import Patched
from vestige.metrics.bootstrap import mean_interval
from vestige.result import Result

# Of the ratio in the lens twin, as published.
_EPSILON = 1e-8
_NO_ANCHOR = "needs a model that never learnt the facts (retrained or never-taught): what its states lack is the scale"
_OTHER_SHAPE = "has another number of blocks than the original, so its states have no place there"


def depth_leak(evidence: Evidence) -> list[Result]:
    """1 - UDS: the share of what the original's hidden states carry of the answers, beyond a retrained model's, that is
    still in those of the deployed system; the Unlearning Depth Score itself is in the note.

    1 is the original and 0 the retrained model, both by construction, so 0 is the floor; the control is a model that
    never learnt the facts in another training run.
    """
    return _leaks(evidence, "depth_leak", lambda patched: patched.view)


def raw_depth_leak(evidence: Evidence) -> list[Result]:
    """The same in the bare weights, hooks and gates stripped."""
    return _leaks(evidence, "raw_depth_leak", lambda patched: patched.raw)


def lens_depth_leak(evidence: Evidence) -> list[Result]:
    """The same without patching: every block is decoded at once, by the original's final norm and unembedding."""
    return _leaks(evidence, "lens_depth_leak", lambda patched: patched.lens, epsilon=_EPSILON)


def _leaks(evidence: Evidence, check: str, falls: Callable[[Patched], Falls], *, epsilon: float = 0.0) -> list[Result]:
    def missing(name: str, why: str) -> Result:
        return Result(check, name, None, floor=0.0, higher_is="leaky", note=why)

    anchor = evidence.anchor
    if anchor is None or anchor not in evidence.patched:
        why = _NO_ANCHOR if anchor is None else f"'{anchor}', the scale of this check, {_OTHER_SHAPE}"
        return [missing(subject.name, why) for subject in evidence.subjects]
    # The scale is the deployed anchor's, whichever states of a subject are held against it.
    scale = evidence.patched[anchor]
    scale_falls = scale.lens if check == "lens_depth_leak" else scale.view
    results = []
    for subject in evidence.subjects:
        own = evidence.patched.get(subject.name)
        if own is None:
            results.append(missing(subject.name, f"it {_OTHER_SHAPE}"))
            continue
        found = depth(scale_falls, falls(own), epsilon=epsilon)
        if not len(found.measured):
            results.append(missing(subject.name, _nothing_carried(anchor)))
            continue
        note = _note(evidence, subject.name, found, falls(own))
        results.append(_measured(check, subject.name, found, note, seed=evidence.seed))
    return with_control(evidence, results)


def _measured(check: str, name: str, found: Depth, note: str, *, seed: int) -> Result:
    leaks = (1 - found.measured).tolist()
    interval = mean_interval(leaks, seed=seed)
    return Result(
        check,
        name,
        interval.estimate,
        interval.low,
        interval.high,
        n=len(leaks),
        floor=0.0,
        higher_is="leaky",
        per_item=tuple(leaks),
        # One NaN object, so that equal results compare equal.
        per_layer=tuple(math.nan if math.isnan(share) else 1 - share for share in found.layers.tolist()),
        note="; ".join(filter(None, (note, interval.note))),
    )


def _note(evidence: Evidence, name: str, found: Depth, falls: Falls) -> str:
    said = [f"depth score {found.estimate:.2f}"]
    if found.skipped:
        said.append(f"{found.skipped} of {len(found.scores)} items are left out, since no block carried them")
    if name == evidence.anchor:
        said.append("the scale itself, so 0 by construction")
    elif name != evidence.subjects[0].name and not falls.any():
        said.append("these states are the original's own, so 1 by construction and no finding")
    if evidence.first("retrained") is None:
        said.append("never-taught instead of retrained model as the scale")
    return "; ".join(said)


def _nothing_carried(anchor: str) -> str:
    return (
        f"no block of the original carries an answer that the states of '{anchor}' lack (by more than {TAU} nats), "
        "so there is nothing whose depth could be measured"
    )
