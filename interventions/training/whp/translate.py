"""Putting general tokens for particular ones, with a map of which position went where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from interventions.training.whp.anchors import Anchor

Apart = Callable[[int, int], bool]


@dataclass(frozen=True)
class Translation:
    """A translated row of tokens.

    Args:
        ids: The tokens.
        position: For each original position its position in `ids`; None inside an anchor, whose last token goes to the
            last token of its replacement.
        repeated: For each original position whether an anchor begins there that was there before.
        introduced: Replacements, as the position in `ids` of their last token and their first token id.
    """

    ids: tuple[int, ...]
    position: tuple[int | None, ...]
    repeated: tuple[bool, ...]
    introduced: tuple[tuple[int, int], ...]


def translate(ids: Sequence[int], anchors: Sequence[Anchor], *, apart: Apart | None = None) -> Translation:
    """Replace anchors, the first in the order given where several fit.

    An anchor of which only a part lies in the row is not one.

    Args:
        ids: Real tokens of a row.
        anchors: Longest first, as `tokenised` gives them.
        apart: Whether a word ends between two tokens; anchors that begin or end inside a word are left. All count when
            not given.
    """
    out: list[int] = []
    position: list[int | None] = []
    repeated: list[bool] = []
    introduced: list[tuple[int, int]] = []
    seen: set[str] = set()
    at = 0
    while at < len(ids):
        anchor = next((one for one in anchors if _fits(ids, at, one.key, apart)), None)
        if anchor is None:
            position.append(len(out))
            repeated.append(False)
            out.append(ids[at])
            at += 1
            continue
        out += anchor.value
        inside = len(anchor.key) - 1
        position += [None] * inside + [len(out) - 1]
        repeated += [anchor.text in seen] + [False] * inside
        if anchor.text not in seen:
            introduced.append((len(out) - 1, anchor.value[0]))
        seen.add(anchor.text)
        at += len(anchor.key)
    return Translation(tuple(out), tuple(position), tuple(repeated), tuple(introduced))


def _fits(ids: Sequence[int], at: int, key: tuple[int, ...], apart: Apart | None) -> bool:
    end = at + len(key)
    if tuple(ids[at:end]) != key:
        return False
    if apart is None:
        return True
    begins = at == 0 or apart(ids[at - 1], ids[at])
    return begins and (end == len(ids) or apart(ids[end - 1], ids[end]))


def word_ends(tokenizer: Any) -> Apart:
    """Return the test of whether a word ends between two tokens: no two letters or digits meet there."""

    def apart(left: int, right: int) -> bool:
        head, both = tokenizer.decode([left]), tokenizer.decode([left, right])
        rest = both[len(head) :] if both.startswith(head) else " "
        return not (head[-1:].isalnum() and rest[:1].isalnum())

    return apart
