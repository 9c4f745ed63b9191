"""The report: HTML, JSON and figures, made from an `AuditReport` alone. Nothing here computes a metric."""

from .figures import draw_figures
from .html import render_html
from .storage import from_json, read_json, to_json
from .write import write_report

__all__ = ["draw_figures", "from_json", "read_json", "render_html", "to_json", "write_report"]
