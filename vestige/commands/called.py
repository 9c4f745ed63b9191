"""The command line that somebody typed."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace

from vestige.result import AuditReport


def called() -> str:
    """Return the command that runs, so that it can be typed again."""
    return shlex.join(["vestige", *sys.argv[1:]])


def with_command(report: AuditReport) -> AuditReport:
    """Return the report with the command that made it in its provenance."""
    return replace(report, provenance={"command": called(), **report.provenance})
