"""`vestige methods`: what there is, and what one of them takes."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from typing import Any

from vestige.catalogue import METHODS, Method
from vestige.methods import described, method, text_settings

# How the interception points are called where people read them.
POINTS = {
    "weights": "weights",
    "edits": "activations",
    "embedding": "prompt",
    "logits": "logits",
    "gate": "gate",
}


def rows() -> list[dict[str, Any]]:
    """Return the table as JSON values."""
    return [_row(one) for one in METHODS.values()]


def row(name: str) -> dict[str, Any]:
    """Return one method as JSON values, with its settings and what its function says.

    Raises:
        VestigeError: There is no such method.
    """
    function = method(name)
    settings = {key: described(hint) for key, hint in text_settings(function).items()}
    return {**_row(METHODS[name]), "settings": settings, "description": inspect.getdoc(function) or ""}


def lines() -> list[str]:
    """Lay all methods out as text, one line each whatever the width of the terminal, so that they can be searched."""
    table = [("method", "acts on", "claims", "arXiv", "needs")]
    for one in METHODS.values():
        acts = ", ".join(POINTS[point] for point in one.points)
        number = one.paper.partition("arXiv:")[2].partition(",")[0]
        table.append((one.name, acts, one.intent, number, " ".join(one.needs)))
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]


def _row(one: Method) -> dict[str, Any]:
    values = asdict(one)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
