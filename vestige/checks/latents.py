"""Do the latents of a sparse autoencoder that mark what was to be forgotten still mark it?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sae.check.preflight import FVE_WARN
from vestige.evidence import Evidence, with_control
from vestige.intrinsic.latents import LatentReading, Survival
from vestige.metrics.bootstrap import mean_interval
from vestige.result import Result, SubjectInfo

_READ: dict[str, Callable[[Survival], LatentReading]] = {
    "latent_survival": lambda found: found.view,
    "raw_latent_survival": lambda found: found.raw,
}


def latent_survival(evidence: Evidence) -> list[Result]:
    """How well the concept's latents still tell forget from retain prompts, as deployed and in the bare weights, and
    how much of each subject's states the SAE reconstructs; nothing where the audit was given no SAE.

    The estimate is the mean AUC of the followed latents on the half of the items that did not choose them, the floor
    that of latents which fire about as often. Where the SAE explains less than 0.7 of the variance of an unlearned
    model's states, a latent that is silent may only have moved with them: a value that is not clearly above control and
    floor is then no result.
    """
    if not evidence.latents:
        return []
    results = []
    for check, reading in _READ.items():
        rows = [_survived(evidence, check, subject, reading) for subject in evidence.subjects]
        control = next((r.estimate for r in rows if r.subject == evidence.control), None)
        results += with_control(evidence, [_held(evidence, row, reading, control) for row in rows])
    return results + with_control(evidence, [_explained(evidence, subject) for subject in evidence.subjects])


def _survived(
    evidence: Evidence, check: str, subject: SubjectInfo, reading: Callable[[Survival], LatentReading]
) -> Result:
    found = evidence.latents[subject.name]
    if isinstance(found, str):
        return Result(check, subject.name, None, higher_is="leaky", note=found)
    own = reading(found)
    placed = own.chosen.mean(0).tolist()
    interval = mean_interval(placed, seed=evidence.seed)
    note = f"{len(own.chosen)} latents; the SAE explains {own.explained:.2f} of the variance of these states"
    if own.explained < FVE_WARN:
        note += f" (below {FVE_WARN}), so a silent latent may be a state that moved"
    return Result(
        check,
        subject.name,
        interval.estimate,
        interval.low,
        interval.high,
        n=len(placed),
        floor=float(own.matched.mean()) if own.matched.size else 0.5,
        higher_is="leaky",
        per_item=tuple(placed),
        note="; ".join(filter(None, (note, interval.note))),
    )


def _held(
    evidence: Evidence, row: Result, reading: Callable[[Survival], LatentReading], control: float | None
) -> Result:
    """Take back a low value of an unlearned model that the SAE does not reconstruct; references keep theirs."""
    found = evidence.latents[row.subject]
    kind = next(s.kind for s in evidence.subjects if s.name == row.subject)
    if isinstance(found, str) or kind != "unlearned" or reading(found).explained >= FVE_WARN:
        return row
    marks = [mark for mark in (control, row.floor) if mark is not None]
    if row.low is not None and all(row.low > mark for mark in marks):
        return row
    return Result(row.check, row.subject, None, floor=row.floor, higher_is="leaky", note=row.note)


def _explained(evidence: Evidence, subject: SubjectInfo) -> Result:
    found = evidence.latents[subject.name]
    if isinstance(found, str):
        return Result("sae_explained_variance", subject.name, None, higher_is="useful", note=found)
    explained = found.view.explained
    finite = bool(np.isfinite(explained))
    return Result(
        "sae_explained_variance",
        subject.name,
        explained if finite else None,
        n=len(evidence.data.forget) + len(evidence.data.retain),
        floor=0.0,
        higher_is="useful",
        note="" if finite else "the states of this model are no finite numbers",
    )
