"""What moved in the weights: how far, in which blocks, and in how many directions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from vestige.evidence import Evidence, with_control
from vestige.intrinsic.weights import Moved
from vestige.result import Result


def weight_change(evidence: Evidence) -> list[Result]:
    """Frobenius distance of all weights from the original's, as a share of their norm; per block likewise. The note
    names the parameter that moved most, by its own norm."""
    return with_control(evidence, [_one(evidence, subject.name) for subject in evidence.subjects])


def _one(evidence: Evidence, name: str) -> Result:
    moved = evidence.moved.get(name, "its weights were not compared")
    if isinstance(moved, str):
        return Result("weight_change", name, None, floor=0.0, higher_is="changed", note=moved)
    n_layers = 1 + max((one.layer for one in moved if one.layer is not None), default=-1)
    layers = [_relative([one for one in moved if one.layer == layer]) for layer in range(n_layers)]
    return Result(
        "weight_change",
        name,
        _relative(moved),
        n=len(moved),
        floor=0.0,
        higher_is="changed",
        per_layer=tuple(layers) or None,
        note=_note(moved),
    )


def _relative(moved: Sequence[Moved]) -> float:
    norm = math.hypot(*(one.norm for one in moved))
    return math.hypot(*(one.delta for one in moved)) / norm if norm > 0 else 0.0


def _note(moved: Sequence[Moved]) -> str:
    changed = [one for one in moved if one.delta > 0]
    if not changed:
        return "no weight moved"
    most = max(changed, key=lambda one: one.relative or 0.0)
    far = most.relative or 0.0
    what = f"{len(changed)} of {len(moved)} parameters moved; '{most.name}' most, by {far:.2g} of its norm"
    if most.stable_rank is None or most.columns is None:
        return what
    lines = f"{most.rows:.0%} of its rows" if most.rows <= most.columns else f"{most.columns:.0%} of its columns"
    return f"{what}, in {lines} and about {most.stable_rank:.1f} directions (stable rank)"
