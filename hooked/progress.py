"""One progress bar for long work: what is done of how much, its rate, and the time left."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm


def _watched() -> bool:
    # A notebook's output is no terminal.
    return sys.stderr.isatty() or "ipykernel" in sys.modules


class _Silent:
    def update(self, n: int) -> None:
        """Show nothing."""

    def note(self, text: str) -> None:
        """Show nothing."""


@contextmanager
def bar(total: int | None, *, what: str, show: bool, unit: str = " tokens", row_bytes: int = 0) -> Iterator[Any]:
    """Show a bar on a terminal or in a notebook; call `update(n)` and `note(text)` on what is yielded.

    Args:
        total: Units in all; None when nobody knows.
        what: The work's name.
        show: Whether to show it where somebody watches.
        unit: What is counted.
        row_bytes: Bytes that a unit writes, for a rate in bytes.
    """
    if not (show and _watched()):
        # Even a hidden bar of tqdm starts a thread and takes a lock that forked processes share: one that is killed
        # while it holds it would stop all others for good.
        yield _Silent()
        return
    many = total is None or total > 10_000
    with tqdm(total=total, desc=what, unit=unit, unit_scale=many, dynamic_ncols=True) as shown:
        if row_bytes:
            shown.set_postfix_str(f"{row_bytes / 1e3:.1f} kB/token")

        class Bar:
            def update(self, n: int) -> None:
                shown.update(n)
                rate = shown.format_dict["rate"]
                if row_bytes and rate:
                    shown.set_postfix_str(f"{rate * row_bytes / 1e6:.0f} MB/s", refresh=False)

            def note(self, text: str) -> None:
                shown.set_postfix_str(text, refresh=False)

        yield Bar()
