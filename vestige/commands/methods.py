"""`vestige methods`: what there is, and what one of them takes."""

from __future__ import annotations

import inspect
import json
from dataclasses import asdict
from typing import Any

from interventions.training.train import train
from vestige.catalogue import METHODS, Method
from vestige.commands.aligned import aligned
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

    Settings of the training loop have no default here: those of `train` are beside them, and hold where the method's
    description names no other.

    Raises:
        VestigeError: There is no such method.
    """
    function = method(name)
    given = inspect.signature(function).parameters
    settings = {}
    for key, hint in text_settings(function).items():
        default = given[key].default if key in given else None
        said = "required" if default is inspect.Parameter.empty else f"default {json.dumps(default, default=str)}"
        settings[key] = described(hint) + (f" ({said})" if key in given else "")
    loop = inspect.signature(train).parameters
    usual = {key: loop[key].default for key in settings if key not in given}
    described_as = {"description": inspect.getdoc(function) or "", "defaults_of_train": usual}
    return {**_row(METHODS[name]), "settings": settings, **described_as}


def lines() -> list[str]:
    """Lay all methods out as text, one line each whatever the width of the terminal, so that they can be searched."""
    table = [("method", "acts on", "claims", "arXiv", "needs")]
    for one in METHODS.values():
        acts = ", ".join(POINTS[point] for point in one.points)
        number = one.paper.partition("arXiv:")[2].partition(",")[0]
        table.append((one.name, acts, one.intent, number, " ".join(one.needs)))
    return aligned(table)


def _row(one: Method) -> dict[str, Any]:
    values = asdict(one)
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}
