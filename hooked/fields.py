"""Read the cells of one row by name, checked: a text is a text, a list of texts is one, a floor is a fraction.

Every message starts with the place of the row, so that a person finds it without counting.
"""

from __future__ import annotations

import json
import math
import reprlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from numbers import Real

from hooked.errors import VestigeError

ACCEPTED = "a row needs question and answer, prompt and answer, or text"
FIELDS = frozenset(
    {"prompt", "question", "answer", "gt", "text", "subject", "concept", "relation", "floor", "Concept", "QA"}
)
_MOST_NAMES = 12
_MOST_CHARACTERS = 80


def describe(value: object) -> str:
    """Name a wrong value in a message: its type and the start of its representation, on one line."""
    return f"{type(value).__name__} {' '.join(reprlib.repr(value).split())}"


def names(values: Iterable[object]) -> str:
    """List names in a message, on one line and not too many."""
    shown = [text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}..." for text in map(repr, values)]
    more = f" and {len(shown) - _MOST_NAMES} more" if len(shown) > _MOST_NAMES else ""
    return (", ".join(shown[:_MOST_NAMES]) or "none") + more


def check_text(value: object, name: str, where: str) -> str:
    """Return `value` if it is a text with something in it that UTF-8 can carry.

    Raises:
        VestigeError: Not a text, blank, or half of a surrogate pair (which no tokenizer can encode).
    """
    if not isinstance(value, str):
        quotes = "; put it in quotes" if isinstance(value, Real) else ""
        raise VestigeError(f"{where}: {name} needs a text, got {describe(value)}{quotes}")
    if not value.strip():
        raise VestigeError(f"{where}: {name} is empty; write a text there or remove the row")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise VestigeError(
            f"{where}: {name} holds half a character at position {error.start} (a lone surrogate, "
            f"\\u{ord(value[error.start]):04x}); write the whole character or remove it"
        ) from None
    return str(value)


@dataclass(frozen=True)
class Cells:
    """One row, with its place.

    Args:
        where: The place of the row, e.g. `forget.jsonl, line 3`.
        values: Cells by column name; None is an absent cell.
        from_csv: Every cell is a text: numbers and lists are parsed from it, and a cell of length zero is absent.
    """

    where: str
    values: Mapping[str, object]
    from_csv: bool = False

    def has(self, name: str) -> bool:
        """Whether the row has something under this name."""
        value = self.values.get(name)
        return value is not None and not (self.from_csv and value == "")

    def only(self, *aliases: str) -> str | None:
        """Return the one of these names that the row uses, or None; two of them are ambiguous."""
        used = [name for name in aliases if self.has(name)]
        if len(used) > 1:
            raise VestigeError(f"{self.where}: both {used[0]} and {used[1]} are given; keep one of them")
        return used[0] if used else None

    def text(self, *aliases: str) -> str | None:
        """Return the text under one of these names, or None."""
        name = self.only(*aliases)
        return None if name is None else check_text(self.values[name], name, self.where)

    def required(self, *aliases: str) -> str:
        """Return the text under one of these names; its absence is an error that lists what the row has."""
        text = self.text(*aliases)
        if text is None:
            raise self.missing(*aliases)
        return text

    def missing(self, *aliases: str) -> VestigeError:
        """Build the error for a row with nothing under these names: a column is empty, or it is not there."""
        for name in aliases:
            if name in self.values:
                return VestigeError(f"{self.where}: {name} is empty; write a text there or remove the row")
        return VestigeError(f"{self.where}: no {aliases[0]} (found: {names(self.values)}); {ACCEPTED}")

    def texts(self, *aliases: str) -> tuple[str, ...]:
        """Return the texts under one of these names, given as one text or a list (a JSON list in a CSV cell)."""
        name = self.only(*aliases)
        if name is None:
            return ()
        value = self.values[name]
        if self.from_csv and isinstance(value, str) and value.lstrip().startswith("["):
            value = self._list_from_cell(name, value)
        if isinstance(value, str):
            return (check_text(value, name, self.where),)
        if isinstance(value, Mapping | bytes) or not isinstance(value, Iterable):
            raise VestigeError(f"{self.where}: {name} needs a text or a list of texts, got {describe(value)}")
        return tuple(check_text(entry, f"{name}[{i}]", self.where) for i, entry in enumerate(value))

    def _list_from_cell(self, name: str, cell: str) -> object:
        try:
            return json.loads(cell)
        except (ValueError, RecursionError):
            raise VestigeError(
                f"{self.where}: {name} starts with '[' but is not a JSON list; "
                'write ["first", "second"] with double quotes (doubled inside a CSV cell)'
            ) from None

    def fraction(self, name: str) -> float | None:
        """Return the number in [0, 1] under this name, or None."""
        if not self.has(name):
            return None
        value: object = self.values[name]
        if self.from_csv and isinstance(value, str):
            with suppress(ValueError):
                value = float(value)
        return check_fraction(value, name, self.where)


def check_fraction(value: object, name: str, where: str) -> float:
    """Return `value` as a float if it is a number in [0, 1].

    Raises:
        VestigeError: Not a number (a truth value is none), NaN, or outside [0, 1].
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise VestigeError(f"{where}: {name} needs a number in [0, 1], got {describe(value)}")
    number = float(value)
    if math.isnan(number) or not 0 <= number <= 1:
        raise VestigeError(f"{where}: {name} must lie in [0, 1] (the chance of guessing the answer), got {number}")
    return number
