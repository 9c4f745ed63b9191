"""The progress bar of a harvest: tokens per second, bytes per second, time left."""

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
    def update(self, tokens: int) -> None:
        """Show nothing."""


@contextmanager
def bar(total: int | None, *, row_bytes: int, show: bool, what: str = "harvest") -> Iterator[Any]:
    """Show a bar over tokens on a terminal; call `update(tokens)` on what is yielded."""
    if not (show and _watched()):
        # Even a hidden bar of tqdm takes a lock that forked processes share: one that is killed while it holds it would
        # stop all others for good.
        yield _Silent()
        return
    with tqdm(total=total, desc=what, unit=" tokens", unit_scale=True, dynamic_ncols=True) as shown:
        if row_bytes:
            shown.set_postfix_str(f"{row_bytes / 1e3:.1f} kB/token")

        class Bar:
            def update(self, tokens: int) -> None:
                shown.update(tokens)
                rate = shown.format_dict["rate"]
                if row_bytes and rate:
                    shown.set_postfix_str(f"{rate * row_bytes / 1e6:.0f} MB/s", refresh=False)

        yield Bar()
