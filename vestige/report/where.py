"""Where it still is: one map per subject, layers by positions, for attention, MLP and block output."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..result import AuditReport, WhereMap
from .layers import STEPS
from .text import cell, listed, number

COMPONENT = {"attention": "Attention", "mlp": "MLP", "block": "Block output"}
# The head of a column, and what it is.
POSITION = {
    "first": ("subj. first", "first token of the subject's name"),
    "between": ("subj. mid", "tokens between its first and last"),
    "last": ("subj. last", "last token of the subject's name"),
    "rest": ("rest", "the rest of the text before the answer"),
    "answer": ("answer", "where the answer is predicted"),
}


@dataclass(frozen=True)
class WhereCell:
    """One cell: its share as text, in brackets where the control's cannot be told from it, and `step`, its shade."""

    said: str
    share: float
    step: int | None


@dataclass(frozen=True)
class WhereView:
    """One subject: `rows` holds a layer each, component by component; `strongest` says where most is."""

    subject: str
    rows: tuple[tuple[tuple[WhereCell, ...], ...], ...]
    strongest: str
    note: str


@dataclass(frozen=True)
class WhereSection:
    """The section. `heads` are those of one component's columns."""

    components: tuple[str, ...]
    heads: tuple[str, ...]
    key: tuple[tuple[str, str], ...]
    views: tuple[WhereView, ...]
    whole: str
    anchor: str
    control: str


def build_where(report: AuditReport) -> WhereSection | None:
    """Lay out the maps of a normalised report; None where there are none."""
    first = next((entry for entry in report.where if entry.shares), None)
    if first is None:
        return None
    # A column that no item has says nothing.
    shown = [n for n, count in enumerate(first.counts) if count]
    names = [POSITION.get(first.positions[n], (first.positions[n], "")) for n in shown]
    ordered = {subject.name: None for subject in report.subjects}
    maps = {entry.subject: entry for entry in report.where}
    return WhereSection(
        tuple(COMPONENT.get(name, name) for name in first.components),
        tuple(head for head, _ in names),
        tuple((head, said) for head, said in names if said),
        tuple(_view(maps[name], shown) for name in ordered if name in maps),
        number(first.whole),
        first.anchor,
        "" if first.control == first.anchor else first.control,
    )


def _view(entry: WhereMap, shown: list[int]) -> WhereView:
    if not entry.shares:
        return WhereView(entry.subject, (), "", entry.note or "no map was made")
    rows = tuple(
        tuple(
            tuple(_cell(layers[layer][n], entry.clear[component][layer][n]) for n in shown)
            for component, layers in enumerate(entry.shares)
        )
        for layer in range(len(entry.shares[0]))
    )
    return WhereView(entry.subject, rows, _strongest(entry), entry.note)


def _cell(share: float, clear: int) -> WhereCell:
    if not math.isfinite(share):
        return WhereCell("–", share, None)
    if not clear:
        return WhereCell(f"({cell(share)})" if share else "0", share, None)
    return WhereCell(cell(share), share, round((STEPS - 1) * min(1.0, max(0.0, share))))


def _strongest(entry: WhereMap) -> str:
    """Name the cells that carry most, of attention and MLP: a block output holds what those before it wrote."""
    found = [
        (share, entry.components[c], layer, entry.positions[p])
        for c, layers in enumerate(entry.shares)
        for layer, row in enumerate(layers)
        for p, share in enumerate(row)
        if entry.clear[c][layer][p] and entry.components[c] != "block"
    ]
    best = sorted(found, key=lambda one: -one[0])[:3]
    if not best:
        return "no single attention or MLP output keeps more than the control's"
    said = [
        f"{COMPONENT.get(component, component)} {layer} at “{POSITION.get(position, (position, ''))[0]}” "
        f"({cell(share)})"
        for share, component, layer, position in best
    ]
    return f"most in {listed(said)}"
