"""The unlearning methods by name, and how text becomes their settings."""

from __future__ import annotations

import difflib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, Union, Unpack, get_args, get_origin, get_type_hints

from hooked.errors import VestigeError
from vestige.catalogue import METHODS

_PLAIN = {float: "a number", int: "a whole number", bool: "true or false", str: "a text", NoneType: "null"}


def method(name: str) -> Callable[..., Any]:
    """Return the function of a method.

    Raises:
        VestigeError: There is none of this name; the message lists the known ones.
    """
    if name not in METHODS:
        near = difflib.get_close_matches(name, METHODS, n=1)
        hint = f"did you mean '{near[0]}'? " if near else ""
        raise VestigeError(f"no method '{name}'; {hint}methods are {', '.join(METHODS)}")
    function: Callable[..., Any] = getattr(import_module(METHODS[name].home), name)
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
        read = [given for given in (_json(value), value) if _fits(given, known[key])]
        if not read:
            raise VestigeError(f"--set {key} needs {described(known[key])}; got '{pair}'")
        found[key] = read[0]
    return found


def text_settings(function: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the keyword-only arguments that text can give, with their types; functions and tensors are left out."""
    hints, found = get_type_hints(function), {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY:
            found[name] = hints[name]
        elif parameter.kind is inspect.Parameter.VAR_KEYWORD and get_origin(hints[name]) is Unpack:
            found |= get_type_hints(get_args(hints[name])[0])
    # Sites are named by an option of their own.
    return {name: hint for name, hint in found.items() if name != "sites" and _is_plain(hint)}


def required_settings(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the settings without a default."""
    known = text_settings(function)
    parameters = inspect.signature(function).parameters
    return tuple(n for n in known if n in parameters and parameters[n].default is inspect.Parameter.empty)


def _json(text: str) -> Any:
    try:
        # NaN and Infinity are no JSON, though Python reads them.
        return json.loads(text, parse_constant=lambda _: text)
    except ValueError:
        return text


def _choices(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


def _is_plain(hint: Any) -> bool:
    return any(_is_plain_one(one) for one in _choices(hint))


def _is_plain_one(one: Any) -> bool:
    if get_origin(one) is Mapping:
        return all(_is_plain(entry) for entry in get_args(one))
    return (one in _PLAIN and one is not NoneType) or get_origin(one) in (Literal, Sequence)


def _holds_others(one: Any) -> bool:
    origin: Any = get_origin(one)
    return origin in (Sequence, Mapping)


def _fits(value: Any, hint: Any) -> bool:
    return any(_fits_one(value, one) for one in _choices(hint))


def _fits_one(value: Any, hint: Any) -> bool:
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) is Sequence:
        return isinstance(value, list) and all(_fits(entry, get_args(hint)[0]) for entry in value)
    if get_origin(hint) is Mapping:
        key, entry = get_args(hint)
        return isinstance(value, dict) and all(_fits(k, key) and _fits(v, entry) for k, v in value.items())
    if type(value) is float and not isfinite(value):
        return False
    return type(value) is hint or (hint is float and type(value) is int)


def described(hint: Any) -> str:
    """Say in words what a setting of a type takes."""
    parts = []
    # Lists last, so that what may stand in place of one is not read as part of it.
    for one in sorted(_choices(hint), key=_holds_others):
        if get_origin(one) is Literal:
            parts += [repr(choice) for choice in get_args(one)]
        elif get_origin(one) is Sequence:
            inside = " or ".join(_PLAIN[entry] for entry in _choices(get_args(one)[0]) if entry in _PLAIN)
            parts.append(f"a list [...], each {inside}")
        elif get_origin(one) is Mapping:
            parts.append('an object {"name": value, ...}')
        else:
            parts += [_PLAIN[one]] if one in _PLAIN else []
    return " or ".join(parts)
