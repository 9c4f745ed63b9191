"""Skills that can be forgotten apart from facts: two-digit addition and reversal of letters, with unseen instances."""

from __future__ import annotations

import random
from zlib import crc32

from .phrasing import Prompt

LETTERS = "abcdefghijklmnopqrstuvwxyz"
LENGTHS = (3, 4)
_HELD_OUT_IN = 8


def addition(a: int, b: int) -> Prompt:
    """`a` and `b` in 10..99, e.g. `12 + 34 =` and `46`."""
    return Prompt(f"{a} + {b} =", str(a + b))


def reversal(letters: str) -> Prompt:
    """E.g. `reverse: k f b =` and `b f k`."""
    return Prompt(f"reverse: {' '.join(letters)} =", " ".join(reversed(letters)))


def is_unseen(prompt: Prompt) -> bool:
    """Whether training skips this instance (one in eight, by a checksum of the prompt)."""
    return crc32(prompt.prompt.encode()) % _HELD_OUT_IN == 0


def draw_addition(rng: random.Random, *, unseen: bool = False) -> Prompt:
    """One random addition from the trained or from the unseen instances."""
    while True:
        prompt = addition(rng.randrange(10, 100), rng.randrange(10, 100))
        if is_unseen(prompt) == unseen:
            return prompt


def draw_reversal(rng: random.Random, *, unseen: bool = False) -> Prompt:
    """One random reversal from the trained or from the unseen instances."""
    while True:
        prompt = reversal("".join(rng.choices(LETTERS, k=rng.choice(LENGTHS))))
        if is_unseen(prompt) == unseen:
            return prompt
