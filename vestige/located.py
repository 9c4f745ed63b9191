"""Where each subject of an audit still carries the answers: falls of single cells, as maps of a report."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from vestige.intrinsic.cells import COMPONENTS, CellFalls
from vestige.intrinsic.positions import POSITIONS
from vestige.intrinsic.where import Shares, Where, where
from vestige.result import Grid, SubjectInfo, WhereMap

_NO_ANCHOR = "needs a model that never learnt the facts (retrained or never-taught): what its states lack is the scale"
_OTHER_SHAPE = "has other blocks than the original, so its states have no place there"


def located(subjects: Sequence[SubjectInfo], falls: Mapping[str, CellFalls], *, seed: int = 0) -> tuple[WhereMap, ...]:
    """Return a map for every subject; one without a map says why.

    The anchor is the retrained model, else the never-taught one, as for the depth score; the control is the
    never-taught one where both are there.

    Where one model stands for both, nothing but the original is told apart, and no cell of another subject is clear.

    Args:
        subjects: The columns of the audit, the original first.
        falls: Subject name to what `Tracing.falls` returned; without subjects of another shape.
        seed: Of the resampling.
    """
    first = {kind: next((s.name for s in subjects if s.kind == kind), "") for kind in ("retrained", "never")}
    anchor = first["retrained"] or first["never"]
    control = first["never"] if first["never"] in falls else anchor
    if anchor not in falls:
        why = f"'{anchor}', the scale of this map, {_OTHER_SHAPE}" if anchor else _NO_ANCHOR
        return tuple(WhereMap(s.name, note=why) for s in subjects)
    maps = []
    for subject in subjects:
        if subject.name not in falls:
            maps.append(WhereMap(subject.name, note=f"it {_OTHER_SHAPE}"))
            continue
        found = where(falls[anchor], falls[subject.name], control=falls[control], seed=seed)
        if isinstance(found, str):
            maps.append(WhereMap(subject.name, note=found))
        else:
            maps.append(_map(subject.name, found, anchor, control, is_original=subject is subjects[0]))
    return tuple(maps)


def _map(name: str, found: Where, anchor: str, control: str, *, is_original: bool) -> WhereMap:
    note = ""
    if name == anchor:
        note = "the scale itself, so 0 by construction"
    elif name == control:
        note = "the control: what two models that both lack the facts differ by, so nothing here is knowledge"
    elif anchor == control:
        note = "no second model that never learnt the facts, so what any two models share cannot be told from knowledge"
    # What the original's own states keep needs no comparison.
    told = anchor != control or is_original
    return WhereMap(
        name,
        COMPONENTS,
        POSITIONS,
        _grid(found.shares),
        _grid(found.low),
        _grid(found.high),
        tuple(tuple(tuple(int(told and cell) for cell in row) for row in layers) for layers in found.clear),
        _grid(found.falls),
        tuple(map(int, found.counts)),
        found.whole,
        anchor,
        control,
        note,
    )


def _grid(values: Shares) -> Grid:
    # One NaN object, so that equal maps compare equal.
    return tuple(
        tuple(tuple(math.nan if np.isnan(v) else float(v) for v in row) for row in layers) for layers in values
    )
