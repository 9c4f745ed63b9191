"""The PNG figures: what is said against what is kept, and one heat-map per check that looks inside."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..result import AuditReport, Result
from .explain import explain
from .layers import HeatMap, build_heat_maps
from .normal import normalised
from .text import cell, visible
from .where import WhereSection, WhereView, build_where

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK, _SOFT, _LINE, _POINT, _CONTROL = "#1a2024", "#535e66", "#dcdfe0", "#0f5c6d", "#b4430c"
_RAMP = ("#f2f5f4", "#86bdc4", "#0c4a5b")
_PANELS = ("forget_probability", "retain_probability")


def draw_figures(report: AuditReport, folder: Path) -> list[Path]:
    """Write `overview.png`, `layers_<check>.png` and `where.png` into an existing folder and return their paths.

    The same report gives the same bytes on the same version of matplotlib. A figure without data is not written.
    """
    report = normalised(report)
    paths = []
    with _style():
        if overview := _overview(report):
            paths.append(_save(overview, folder / "overview.png"))
        for heat in build_heat_maps(report):
            name = re.sub(r"[^A-Za-z0-9_-]+", "_", heat.explanation.check)
            paths.append(_save(_layers(heat), folder / f"layers_{name}.png"))
        if section := build_where(report):
            paths.append(_save(_where(section), folder / "where.png"))
    return paths


@contextmanager
def _style() -> Iterator[None]:
    """Draw with this file's style whatever the user's own matplotlib settings are."""
    import matplotlib

    with warnings.catch_warnings(), matplotlib.rc_context():
        # A name in a script that the built-in font lacks is drawn as boxes, which is no reason to warn.
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        matplotlib.rcParams.update(matplotlib.rcParamsDefault)
        matplotlib.rcParams.update(
            {
                "font.family": ["DejaVu Sans"],
                "font.size": 9,
                "text.color": _INK,
                "text.parse_math": False,
                "axes.edgecolor": _LINE,
                "axes.labelcolor": _SOFT,
                "xtick.color": _SOFT,
                "ytick.color": _INK,
                "axes.unicode_minus": True,
            }
        )
        yield


def _save(figure: Figure, path: Path) -> Path:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=160, metadata={"Software": None})
    return path


def _overview(report: AuditReport) -> Figure | None:
    """Draw one row per subject: what it still says on the left, what it keeps on the right."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    found = {(result.check, result.subject): result for result in report.results if result.estimate is not None}
    checks = [check for check in _PANELS if any(key[0] == check for key in found)]
    if not checks:
        return None
    names = [subject.name for subject in report.subjects]
    height = 1.5 + 0.34 * len(names)
    figure = Figure(figsize=(4.6 * len(checks) + 0.4, height), layout="constrained", facecolor="white")
    panels = figure.subplots(1, len(checks), sharey=True, squeeze=False)[0]
    for axes, check in zip(panels, checks, strict=True):
        _panel(axes, check, [found.get((check, name)) for name in names])
    panels[0].set_yticks(range(len(names)), [_short(name) for name in names])
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    handles = [
        Line2D([], [], color=_POINT, marker="o", linewidth=3, solid_capstyle="round", label="value, 95 % interval"),
        Line2D([], [], color=_CONTROL, marker="D", markerfacecolor="white", linestyle="none", label="control"),
        Line2D([], [], color=_SOFT, linestyle=(0, (3, 2)), label="chance"),
    ]
    figure.legend(handles=handles, loc="outside lower left", ncols=3, frameon=False, labelcolor=_SOFT)
    return figure


def _panel(axes: Axes, check: str, results: list[Result | None]) -> None:
    explanation = explain(check)
    axes.set_title(
        f"{explanation.title}: {explanation.plain}", loc="left", fontsize=10, fontweight="bold", color=_INK, pad=10
    )
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xlim(-0.03, 1.03)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    for row, result in enumerate(results):
        axes.axhline(row, color="#eef0ef", linewidth=1, zorder=0)
        if result is None or result.estimate is None:
            axes.text(0.0, row, "not measured", color=_SOFT, va="center", style="italic")
            continue
        _mark(axes, row, result, result.estimate)


def _mark(axes: Axes, row: int, result: Result, value: float) -> None:
    """Draw one value with its interval, control and floor; values beyond the axis sit at its end."""
    if result.floor is not None:
        axes.vlines(_clip(result.floor), row - 0.36, row + 0.36, color=_SOFT, linestyle=(0, (2, 1.5)), linewidth=1.1)
    if result.low is not None and result.high is not None:
        axes.hlines(row, _clip(result.low), _clip(result.high), color=_POINT, alpha=0.45, linewidth=4, capstyle="round")
    if result.control is not None:
        axes.plot(
            _clip(result.control),
            row,
            "D",
            markersize=6,
            markerfacecolor="white",
            markeredgecolor=_CONTROL,
            markeredgewidth=1.4,
        )
    axes.plot(
        _clip(value), row, "o", markersize=6.5, color=_POINT, markeredgecolor="white", markeredgewidth=0.8, zorder=4
    )


def _clip(value: float) -> float:
    return min(1.02, max(-0.02, value))


def _layers(heat: HeatMap) -> Figure:
    """Draw one heat-map, subjects by layers, with the value in every cell while they fit."""
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    rows = [row for row in heat.rows if not row.missing]
    values = np.array([[math.nan if value is None else value for value in row.values] for row in rows])
    ramp = LinearSegmentedColormap.from_list("ramp", _RAMP).with_extremes(bad="white")
    width = min(16.0, 2.6 + 0.52 * heat.n_layers)
    figure = Figure(figsize=(max(5.2, width), 1.5 + 0.34 * len(rows)), layout="constrained", facecolor="white")
    axes = figure.subplots()
    image = axes.imshow(
        np.ma.masked_invalid(values), cmap=ramp, vmin=heat.scale.low, vmax=heat.scale.high, aspect="auto"
    )
    axes.set_title(f"{heat.explanation.title} by layer", loc="left", fontsize=10, fontweight="bold", pad=10)
    axes.set_yticks(range(len(rows)), [_short(row.name) for row in rows])
    axes.set_xticks(range(0, heat.n_layers, max(1, heat.n_layers // 16)))
    axes.set_xlabel("layer")
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)
    # White gaps between the cells, so that neighbours of one colour stay countable.
    axes.set_xticks(np.arange(heat.n_layers + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(rows) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="minor", length=0)
    if heat.n_layers <= 26:
        _write_cells(axes, heat)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02, ticks=[heat.scale.low, heat.scale.high])
    bar.ax.set_yticklabels([label.removesuffix(" or less") for label in heat.scale.labels()])
    bar.ax.tick_params(length=0, labelcolor=_SOFT, labelsize=8)
    bar.outline.set_visible(False)
    return figure


def _write_cells(axes: Axes, heat: HeatMap) -> None:
    for y, row in enumerate(row for row in heat.rows if not row.missing):
        for x, (value, step) in enumerate(zip(row.values, row.step, strict=True)):
            colour = "white" if step is not None and step >= 8 else _INK
            axes.text(x, y, cell(value), ha="center", va="center", color=colour, fontsize=8)


def _where(section: WhereSection) -> Figure:
    """Draw one row of panels per subject, layers by positions; cells that the control reaches too have no colour."""
    from matplotlib.figure import Figure

    views = [view for view in section.views if view.rows]
    n_layers, n_columns = len(views[0].rows), len(section.heads)
    size = (1.6 + 0.62 * n_columns * len(section.components), 1.3 + len(views) * (0.4 + 0.2 * n_layers))
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    panels = figure.subplots(len(views), len(section.components), sharex=True, sharey=True, squeeze=False)
    for row, view in zip(panels, views, strict=True):
        for part, axes in enumerate(row):
            _component(axes, view, part)
            if view is views[0]:
                axes.set_title(section.components[part], fontsize=9, color=_SOFT, pad=6)
        row[0].set_ylabel(_short(view.subject), rotation=0, ha="right", va="center", color=_INK, labelpad=14)
        row[0].set_yticks(range(0, n_layers, max(1, n_layers // 12)))
    panels[0][0].set_ylim(n_layers - 0.5, -0.5)
    for axes in panels[-1]:
        axes.set_xticks(range(n_columns), section.heads, fontsize=7.5, rotation=20, ha="right")
    figure.suptitle(
        "Where it still is: share of what the original carries (rows: layers), from 0 to 1",
        x=0.01,
        ha="left",
        fontsize=10,
        fontweight="bold",
    )
    beside = section.control or section.anchor
    figure.supxlabel(f"in brackets, uncoloured: cannot be told from {_short(beside)}", fontsize=8, color=_SOFT)
    return figure


def _component(axes: Axes, view: WhereView, part: int) -> None:
    """Draw one panel on a scale fixed from 0 to 1, so that subjects compare."""
    import numpy as np
    from matplotlib.colors import LinearSegmentedColormap

    ramp = LinearSegmentedColormap.from_list("ramp", _RAMP).with_extremes(bad="white")
    cells = [layer[part] for layer in view.rows]
    values = np.array([[math.nan if one.step is None else one.share for one in row] for row in cells])
    axes.imshow(np.ma.masked_invalid(values), cmap=ramp, vmin=0, vmax=1, aspect="auto")
    axes.tick_params(length=0)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_color(_LINE)
    axes.set_xticks(np.arange(len(cells[0]) + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(len(cells) + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=1.2)
    for y, row in enumerate(cells if len(cells) <= 40 else ()):
        for x, one in enumerate(row):
            colour = _SOFT if one.step is None else "white" if one.step >= 8 else _INK
            axes.text(x, y, one.said, ha="center", va="center", color=colour, fontsize=6.5)


def _short(name: str) -> str:
    """Return a subject's name that fits beside a figure."""
    name = visible(name).replace("\n", " ")
    return name if len(name) <= 28 else f"{name[:27]}…"
