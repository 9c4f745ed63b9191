"""`vestige calibrate`: what the instruments are worth on models whose knowledge is known."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from hooked import VestigeError
from vestige.calibration.evaluate import Calibration
from vestige.commands.called import called


def seeds(given: str, *, what: str) -> tuple[int, ...]:
    """Read seeds separated by commas.

    Raises:
        VestigeError: One is no whole number from 0 to 4294967295, or occurs twice.
    """
    parts = [part.strip() for part in given.split(",")]
    right = all(part.isascii() and part.isdigit() and int(part) < 2**32 for part in parts)
    if not right or len(set(parts)) < len(parts):
        raise VestigeError(f"{what} is a list of different whole numbers below 2**32, like 1,2; got {given!r}")
    return tuple(map(int, parts))


def about() -> dict[str, Any]:
    """Return where the numbers come from, as JSON values."""
    return {
        "command": called(),
        "versions": {name: version(name) for name in ("vestige", "torch", "transformers")},
    }


def print_summary(found: Calibration) -> None:
    """Print what each instrument is worth and what the scores claimed."""
    table = Table(title="what the instruments are worth", caption="on worlds that nothing was fitted on")
    table.add_column("instrument")
    for title in ("faithfulness", "interval", "robustness"):
        table.add_column(title, justify="right")
    for worth in found.worths:
        auc = worth.faithfulness
        table.add_row(
            Text(worth.name),
            "–" if auc is None else f"{auc.auc:.3f}",
            "–" if auc is None else f"{auc.low:.3f}–{auc.high:.3f}",
            "–" if worth.robustness is None else f"{worth.robustness.both:.3f}",
        )
    console = Console()
    console.print(table)
    for name, claims in found.claims.items():
        console.print(
            f"score ({name}): {claims.false_alarms.hits} false alarms of {claims.false_alarms.n}, "
            f"{claims.missed.hits} missed of {claims.missed.n}, calibration error {claims.error:.3f}",
            soft_wrap=not console.is_terminal,
        )
