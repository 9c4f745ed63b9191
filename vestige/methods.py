"""The names under which the command line knows the unlearning methods."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from hooked.errors import VestigeError

# Imported on first use: the command line has to list names without paying for torch.
METHODS = {
    "gradient_ascent": "interventions",
    "gradient_difference": "interventions",
    "idk_finetune": "interventions",
    "key_space_detection": "interventions",
    "neuron_adjust": "interventions",
    "npo": "interventions",
    "selective_pruning": "interventions",
    "ablate_vectors": "interventions",
    "needle_tune": "interventions",
}
# These two edit given value vectors, which the command line searches first.
ON_VECTORS = ("ablate_vectors", "needle_tune")


def method(name: str) -> Callable[..., Any]:
    """Return the function of a method.

    Raises:
        VestigeError: There is none of this name; the message lists the known ones.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise VestigeError(f"no method '{name}'; {hint}methods are {', '.join(METHODS)}")
    function: Callable[..., Any] = getattr(import_module(METHODS[name]), name)
    return function


def settings(function: Callable[..., Any], pairs: Sequence[str]) -> dict[str, Any]:
    """Turn `key=value` texts into keyword arguments; values are JSON, and plain text where they are not.

    Raises:
        VestigeError: A text has no `=`, or the method has no such argument.
    """
    known = [n for n, p in inspect.signature(function).parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in known:
            raise VestigeError(f"--set takes key=value with a key of {', '.join(known)}; got '{pair}'")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found
