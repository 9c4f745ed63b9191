"""The command line that somebody typed."""

from __future__ import annotations

import shlex
import sys


def called() -> str:
    """Return the command that runs, so that it can be typed again."""
    return shlex.join(["vestige", *sys.argv[1:]])
