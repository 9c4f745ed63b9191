"""Anchors: what is particular to a text, what stands for it in general, and how a tokenizer writes both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hooked import Item, VestigeError

_BEFORE = ("", " ", "\n")
_AFTER = ("", "'s", "\u2019s")


@dataclass(frozen=True)
class Anchor:
    """One way in which a tokenizer writes an anchor.

    Args:
        text: The particular text.
        key: Its tokens.
        value: Tokens of the general text that stands for it.
    """

    text: str
    key: tuple[int, ...]
    value: tuple[int, ...]


def tokenised(tokenizer: Any, anchors: Mapping[str, str]) -> tuple[Anchor, ...]:
    """Return how a tokenizer writes anchors: at the start of a text, after a space or a line break, as a possessive.

    A phrase of which every word is an anchor itself is left out, and so is a way of writing that does not read back as
    it was, because it has unknown tokens that stand for other texts too. Longer keys come first.

    Args:
        tokenizer: A Hugging Face tokenizer.
        anchors: Particular text to general text.

    Raises:
        VestigeError: There is no tokenizer, a text is empty, or an anchor cannot be written with these tokens.
    """
    if tokenizer is None:
        raise VestigeError("anchors are texts, and this HookedModel has no tokenizer; pass tokenizer=")
    found: dict[tuple[int, ...], Anchor] = {}
    for text, general in anchors.items():
        if not text.strip() or not general.strip():
            raise VestigeError(f"an anchor maps a text to a text, got {text!r} to {general!r}")
        words = text.split()
        if len(words) > 1 and all(word in anchors for word in words):
            continue
        ways = _ways(tokenizer, text.strip(), general.strip())
        if not ways:
            raise VestigeError(
                f"the tokenizer has no tokens that read back as the anchor {text!r} and as {general!r}; "
                "write them otherwise"
            )
        for key, value in ways:
            found.setdefault(key, Anchor(text, key, value))
    return tuple(sorted(found.values(), key=lambda anchor: -len(anchor.key)))


def _ways(tokenizer: Any, text: str, general: str) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    ways: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for before in _BEFORE:
        head = _ids(tokenizer, before) if before.strip(" ") else ()
        bare: tuple[tuple[int, ...], tuple[int, ...]] | None = None
        for after in _AFTER:
            key, value = (_ids(tokenizer, before + words + after) for words in (text, general))
            if head and key[: len(head)] == head == value[: len(head)]:
                key, value = key[len(head) :], value[len(head) :]
            if not (_reads(tokenizer, key, text + after) and _reads(tokenizer, value, general + after)):
                continue
            if not after:
                bare = key, value
            elif bare is not None and _extends(bare, (key, value)):
                # The ending has tokens of its own, which are left as they are.
                continue
            ways.append((key, value))
    return ways


def _extends(bare: tuple[tuple[int, ...], tuple[int, ...]], longer: tuple[tuple[int, ...], tuple[int, ...]]) -> bool:
    (key, value), (long_key, long_value) = bare, longer
    begins = long_key[: len(key)] == key and long_value[: len(value)] == value
    return begins and long_key[len(key) :] == long_value[len(value) :]


def _ids(tokenizer: Any, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _reads(tokenizer: Any, ids: tuple[int, ...], text: str) -> bool:
    def plain(words: str) -> str:
        return "".join(words.split()).casefold()

    return bool(ids) and plain(tokenizer.decode(list(ids))) == plain(text)


def from_subjects(forget: Sequence[Item], retain: Sequence[Item], *, seed: int) -> dict[str, str]:
    """Map the subject of every forget item to the subject of a retain item, drawn without repeats while they last.

    Raises:
        VestigeError: One of the splits names no subject of its own.
    """
    particular = list(dict.fromkeys(item.subject for item in forget if item.subject))
    others = [s for s in dict.fromkeys(item.subject for item in retain if item.subject) if s not in particular]
    if not particular or not others:
        where = "forget" if not particular else "retain"
        raise VestigeError(
            f"whp without anchors replaces subjects, and no {where} item names one of its own; pass anchors={{...}}, "
            "particular text to general text"
        )
    order = torch.randperm(len(others), generator=torch.Generator().manual_seed(seed)).tolist()
    return {subject: others[order[i % len(order)]] for i, subject in enumerate(particular)}
