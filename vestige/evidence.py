"""All readings of an audit side by side, and how a check turns them into results with floor, control and interval."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hooked import Decoder, UnlearnData
from probes import ConceptVector
from vestige.intrinsic.latents import Survival
from vestige.intrinsic.patched import Patched
from vestige.intrinsic.weights import Moved
from vestige.metrics.bootstrap import mean_interval
from vestige.reading import Reading
from vestige.result import Orientation, Result, SubjectInfo


@dataclass(frozen=True)
class Evidence:
    """What the checks read.

    Args:
        data: The prepared items.
        subjects: The columns, original first.
        readings: Subject name to its reading.
        decoder: The original's decoder, frozen.
        vectors: The concept vectors that are followed.
        seed: Of resampling and permutations.
        patched: Subject name to what its states do in the original; without subjects of another shape.
        moved: Subject name to how far its weights lie from the original's, or to why they cannot be compared.
        latents: Subject name to what an SAE's latents say of it, or to why they say nothing; empty without an SAE.
    """

    data: UnlearnData
    subjects: tuple[SubjectInfo, ...]
    readings: Mapping[str, Reading]
    decoder: Decoder
    vectors: tuple[ConceptVector, ...]
    seed: int
    patched: Mapping[str, Patched] = field(default_factory=dict)
    moved: Mapping[str, tuple[Moved, ...] | str] = field(default_factory=dict)
    latents: Mapping[str, Survival | str] = field(default_factory=dict)

    @property
    def original(self) -> Reading:
        """The reading of the model before unlearning."""
        return self.readings[self.subjects[0].name]

    def first(self, kind: str) -> str | None:
        """Return the name of the first subject of a kind, or None."""
        return next((s.name for s in self.subjects if s.kind == kind), None)

    @property
    def control(self) -> str | None:
        """The subject that was never taught the facts: `never` where given, else the retrained one."""
        return self.first("never") or self.first("retrained")

    @property
    def anchor(self) -> str | None:
        """The subject that exact unlearning would give: the retrained one where given, else `never`."""
        return self.first("retrained") or self.first("never")


def item_means(
    evidence: Evidence,
    check: str,
    values: Callable[[Reading], Sequence[float] | None],
    *,
    higher_is: Orientation,
    floor: float | None = None,
    missing: str = "",
    note: str | Callable[[Reading], str] = "",
) -> list[Result]:
    """Return the mean over items for every subject, with interval, floor and the control's mean.

    Args:
        evidence: All readings.
        check: Name of the check.
        values: One value per item of a reading; None or nothing where the check has nothing to measure.
        higher_is: Orientation of the check.
        floor: What chance scores.
        missing: Why nothing could be measured, where `values` gives nothing.
        note: Attached to every measured result, or made from its reading.
    """
    results = []
    for subject in evidence.subjects:
        reading = evidence.readings[subject.name]
        items = values(reading)
        if not items:
            results.append(Result(check, subject.name, None, floor=floor, higher_is=higher_is, note=missing))
            continue
        interval = mean_interval(list(items), seed=evidence.seed)
        said = note if isinstance(note, str) else note(reading)
        results.append(
            Result(
                check,
                subject.name,
                interval.estimate,
                interval.low,
                interval.high,
                n=len(items),
                floor=floor,
                higher_is=higher_is,
                per_item=tuple(float(v) for v in items),
                note="; ".join(filter(None, (interval.note, said))),
            )
        )
    return with_control(evidence, results)


def with_control(evidence: Evidence, results: list[Result]) -> list[Result]:
    """Put the control's estimate, and its layers where there are any, beside every result of one check."""
    control = next((r for r in results if r.subject == evidence.control), None)
    if control is None:
        return results
    return [replace(r, control=control.estimate, per_layer_control=control.per_layer) for r in results]
