"""Does a text give an answer away? An attack may hint at an answer, and must not contain it."""

from __future__ import annotations

import re

from hooked import Item, VestigeError

_WORD = re.compile(r"\w+")
_ENDS = " .,;:!?\"'"


def gives_away(text: str, item: Item) -> bool:
    """Return whether a text holds an item's answer.

    It does if the answer stands in it, as whole words and whatever the case, or if every word of the answer does that
    the prompt has not (one letter alone is no word): a full sentence is seldom repeated letter by letter, the name in
    it is.
    """
    if holds(text, item.answer):
        return True
    new = _words(item.answer) - _words(item.prompt)
    return bool(new) and new <= _words(text)


def holds(text: str, answer: str) -> bool:
    """Return whether an answer stands in a text, as whole words, whatever the case and the spaces.

    Punctuation at its ends does not count; an answer of nothing else stands nowhere.
    """
    needed = " ".join(answer.split()).strip(_ENDS).casefold()
    return bool(needed) and re.search(_whole(needed), " ".join(text.split()).casefold()) is not None


def refuse_leak(text: str, item: Item, *, what: str) -> None:
    """Refuse a text that gives the answer away.

    Args:
        text: What would be shown.
        item: Whose answer it must not hold.
        what: What the text is, for the message.

    Raises:
        VestigeError: It does; the message names the prompt.
    """
    if gives_away(text, item):
        raise VestigeError(
            f"{what} for {item.prompt[-60:]!r} holds the answer {item.answer[:40]!r}, so nothing would be attacked; "
            "take it out"
        )


def _whole(answer: str) -> str:
    # Scripts without spaces have no word ends, so only a Latin letter or a digit beside it makes it another word.
    before = "(?<![a-z0-9])" if answer[0].isascii() and answer[0].isalnum() else ""
    after = "(?![a-z0-9])" if answer[-1].isascii() and answer[-1].isalnum() else ""
    return f"{before}{re.escape(answer)}{after}"


def _words(text: str) -> set[str]:
    return {word for word in _WORD.findall(text.casefold()) if len(word) > 1}
