"""Numbers and untrusted text as a reader should see them: no hidden characters, no false precision."""

from __future__ import annotations

import math
import re
import unicodedata

from markupsafe import Markup, escape

_HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
# Joiners are invisible but carry the spelling of Persian and of many emoji; they cannot reorder or hide text.
_KEPT = {"\n", "\t", "\u200c", "\u200d"}
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def visible(text: str) -> str:
    """Spell out every character that is invisible, reorders text or cannot be encoded, as `⟨U+202E⟩`.

    Model output is untrusted: a bidi override could swap what a reader sees, and a lone surrogate cannot be written as
    UTF-8. Line breaks and tabs stay.
    """
    text = text.replace("\r\n", "\n")
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelled(char) for char in text)


def _spelled(char: str) -> str:
    if char in _KEPT or unicodedata.category(char) not in _HIDDEN:
        return char
    return f"⟨U+{ord(char):04X}⟩"


def visible_token(token: str) -> tuple[bool, str]:
    """Split a token into (starts with a space, what a reader sees); an empty or blank token gets a name."""
    body = token.removeprefix(" ")
    shown = visible(body).replace("\n", "↵").replace("\t", "⇥").replace(" ", "␣")
    return body != token, shown or "∅"


def number(value: float | None) -> str:
    """Format briefly: `0.97`, `0.042`, `0.998`, `3.1×10⁻⁵`; only an exact 0 or 1 reads as `0` or `1`."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if value == 0 or size == 1:
        return f"{value:.0f}".replace("-0", "0").replace("-", "−")
    if size < 0.001 or size >= 10_000:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}×10{str(int(exponent)).translate(_SUPERSCRIPT)}".replace("-", "−")
    if 0.9995 <= size < 1:
        return ">0.999" if value > 0 else "<−0.999"
    digits = 3 if size < 0.0995 or 0.99 <= size < 1 else 2 if size < 99.5 else 0
    return f"{value:.{digits}f}".replace("-", "−")


def interval(low: float | None, high: float | None) -> str:
    """Format `[low, high]`, or nothing when either end is missing."""
    if low is None or high is None or not (math.isfinite(low) and math.isfinite(high)):
        return ""
    return f"[{number(low)}, {number(high)}]"


def cell(value: float | None) -> str:
    """Format for a heat-map cell in at most four characters: `.97`, `1`, `<.01`, `12`."""
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if value == 0 or size >= 9.95:
        text = f"{value:.0f}"
    elif size < 0.005:
        text = "<.01" if value > 0 else ">-.01"
    elif 0.995 <= size < 1:
        text = ">.99" if value > 0 else "<-.99"
    elif size == 1:
        text = f"{value:.0f}"
    elif size < 1:
        text = f"{value:.2f}".replace("0.", ".", 1)
    else:
        text = f"{value:.1f}"
    return text.replace("-", "−")


def breakable(name: str) -> Markup:
    """Return a name as HTML that may wrap after `_`, `-`, `.` or `/` instead of in the middle of a word."""
    return Markup(re.sub(r"([_\-./])(?=\w)", r"\1<wbr>", str(escape(visible(name)))))


def letter(index: int) -> str:
    """Return the mark of the index-th remark, from 1: a, b, ..., z, aa. A raised digit would read as an exponent."""
    text = ""
    while index > 0:
        index, rest = divmod(index - 1, 26)
        text = chr(ord("a") + rest) + text
    return text


def listed(names: list[str]) -> str:
    """Join names as a sentence does: `a`, `a and b`, `a, b and c`."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"
