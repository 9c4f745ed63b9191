"""`vestige methods`: what there is, and what one of them takes."""

from __future__ import annotations

import inspect
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from vestige.catalogue import METHODS, Method
from vestige.methods import described, method, text_settings

if TYPE_CHECKING:
    from rich.table import Table

# How the interception points are called where people read them.
POINTS = {
    "weights": "weights",
    "edits": "activations",
    "embedding": "prompt embedding",
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


def as_table() -> Table:
    """Lay all methods out for a terminal."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in ("method", "acts on", "claims", "needs", "paper"):
        table.add_column(column, overflow="fold")
    for one in METHODS.values():
        acts = ", ".join(POINTS[point] for point in one.points)
        table.add_row(one.name, acts, one.intent, ", ".join(one.needs), one.paper)
    return table


def _row(one: Method) -> dict[str, Any]:
    values = asdict(one)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
