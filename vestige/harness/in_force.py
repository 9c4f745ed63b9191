"""What is in force on a model, as the logs of other harnesses keep it."""

from __future__ import annotations

from typing import Any

from hooked import HookedModel, View


def in_force(model: HookedModel) -> dict[str, Any]:
    """Return the model's name and the interventions in force on it, as JSON values."""
    applied = model.interventions if isinstance(model, View) else ()
    return {
        "base_model": model.name,
        "interventions": [{"name": one.spec.name, "intent": one.spec.intent, **one.spec.settings} for one in applied],
    }


def label(model: HookedModel) -> str:
    """Return a short name: the last part of the model's, and what is in force on it."""
    applied = model.interventions if isinstance(model, View) else ()
    return "+".join([model.name.rstrip("/").rpartition("/")[2], *(one.spec.name for one in applied)])
