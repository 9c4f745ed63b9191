"""Write a report's files into a folder."""

from __future__ import annotations

from pathlib import Path

from hooked.errors import VestigeError

from ..result import AuditReport
from .figures import draw_figures
from .html import render_html
from .storage import dumps, to_json


def write_report(report: AuditReport, out: Path) -> None:
    """Write `report.html`, `report.json` and `figures/*.png` into an existing folder.

    The same report gives the same bytes. Everything is rendered before the first file is written.

    Raises:
        VestigeError: `out` is not a folder, cannot be written, or the report contradicts itself (see `normalised`).
    """
    out = Path(out)
    if not out.is_dir():
        raise VestigeError(f"a report needs an existing folder, got {out}; create it first")
    page, data = render_html(report), dumps(to_json(report))
    try:
        (out / "report.html").write_text(page, encoding="utf-8", newline="\n")
        (out / "report.json").write_text(data, encoding="utf-8", newline="\n")
        (out / "figures").mkdir(exist_ok=True)
        draw_figures(report, out / "figures")
    except OSError as error:
        raise VestigeError(f"cannot write the report into {out}: {error.strerror or error}") from None
