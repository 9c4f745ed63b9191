"""The names under which the command line knows the unlearning methods, and how text becomes their settings."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

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
        VestigeError: A text has no `=`, the method has no such setting, or the value is not of its type.
    """
    known = text_settings(function)
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or key not in known:
            raise VestigeError(f"--set takes key=value with a key of {', '.join(known)}; got '{pair}'")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
        if not _fits(found[key], known[key]):
            raise VestigeError(f"--set {key} needs {_described(known[key])}; got '{pair}'")
    return found


def text_settings(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the keyword-only arguments that text can give, with their types; functions and tensors are left out."""
    hints = get_type_hints(function)
    names = [n for n, p in inspect.signature(function).parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY]
    return {name: hints[name] for name in names if _is_plain(hints[name])}


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_plain(hint: Any) -> bool:
    plain = (bool, int, float, str)
    return any(
        one in plain or get_origin(one) is Literal or (get_origin(one) is Sequence and set(_choices(*get_args(one))) <= set(plain))
        for one in _choices(hint)
    )


def _fits(value: Any, hint: Any) -> bool:
    for one in _choices(hint):
        if get_origin(one) is Literal:
            fits = value in get_args(one)
        elif get_origin(one) is Sequence:
            fits = isinstance(value, list) and all(_fits(entry, get_args(one)[0]) for entry in value)
        elif one is float:
            fits = isinstance(value, int | float) and not isinstance(value, bool)
        elif one in (int, str, bool, NoneType):
            fits = type(value) is one
        else:
            fits = False
        if fits:
            return True
    return False


def _described(hint: Any) -> str:
    words = {float: "a number", int: "a whole number", str: "a text", bool: "true or false", NoneType: "null"}
    parts = []
    for one in _choices(hint):
        if get_origin(one) is Literal:
            parts += map(str, get_args(one))
        elif get_origin(one) is Sequence:
            parts.append("a list like [1, 2]")
        elif one in words:
            parts.append(words[one])
    return " or ".join(parts)
