"""`report.html`: one self-contained page, made from an `AuditReport` alone."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from ..result import AuditReport
from ..stands_out import by_chance
from .answer import answer, forgotten
from .attacks import HEIGHT, WIDTH, build_attacks
from .cards import KIND, build_cards, build_glance
from .edited import build_edited
from .explain import GROUPS, ORIENTATION, in_reading_order
from .layers import STEPS, build_heat_maps
from .normal import normalised
from .table import build_table
from .text import breakable, cell, letter, number, visible
from .traces import build_examples, build_vectors
from .where import build_where


def render_html(report: AuditReport) -> str:
    """Return the page. It loads nothing, runs no script, and shows model output as text.

    The same report gives the same text. `provenance["concepts"]` names what was forgotten; `verdicts["overall"]` is the
    opening paragraph (without it the numbers are read out).

    Raises:
        VestigeError: The report contradicts itself (see `normalised`).
    """
    report = normalised(report)
    checks = [result.check for result in report.results]
    explanations = in_reading_order(checks)
    guide = [(group, [e for e in explanations if e.group == group]) for group in GROUPS]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            forgotten=forgotten(report),
            answer=answer(report),
            subjects=report.subjects,
            kind=KIND,
            steps=STEPS,
            anchors={entry.check: f"check-{index}" for index, entry in enumerate(explanations, start=1)},
            glance=build_glance(report),
            cards=build_cards(report),
            table=build_table(report),
            heat_maps=build_heat_maps(report),
            where=build_where(report),
            vectors=build_vectors(report),
            by_chance=by_chance(report.concept_vectors),
            latents=build_edited(report),
            attacks=build_attacks(report),
            chart=(WIDTH, HEIGHT),
            examples=build_examples(report),
            guide=[(group, entries) for group, entries in guide if entries],
            orientation={
                result.check: ORIENTATION.get(result.higher_is, result.higher_is) for result in report.results
            },
            scored=bool(report.residual),
            provenance=flattened(report.provenance),
        )
    )


@cache
def environment() -> Environment:
    """Return where templates are rendered: everything is escaped and every hidden character is spelled out."""
    environment = Environment(
        loader=PackageLoader("vestige.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_finalize,
    )
    environment.filters.update(number=number, cell=cell, breakable=breakable, letter=letter)
    return environment


def _finalize(value: Any) -> Any:
    """Run on every expression of the template before it is escaped, so that no hidden character can slip through."""
    if type(value) is str:
        return visible(value)
    return value


def flattened(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Return nested provenance as (dotted key, text) rows; lists of plain values become one row."""
    if value == {} and not prefix:
        return []
    if isinstance(value, Mapping) and value:
        return [
            row for key, entry in value.items() for row in flattened(entry, f"{prefix}.{key}" if prefix else str(key))
        ]
    if isinstance(value, list) and any(isinstance(entry, (Mapping, list)) for entry in value):
        return [row for index, entry in enumerate(value) for row in flattened(entry, f"{prefix}[{index}]")]
    if isinstance(value, list):
        return [(prefix, ", ".join(_plain(entry) for entry in value))]
    return [(prefix, _plain(value))]


def _plain(value: Any) -> str:
    if value is None or value in ({}, ""):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
