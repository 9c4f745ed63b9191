"""The methods benchmark as a page, a table of numbers and a picture."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from scipy.stats import t as student

from benchmarks.methods_shapes import SHAPES, Shape
from vestige.catalogue import METHODS
from vestige.commands.methods import POINTS

# Check, heading, and whether more of it is better for somebody who wants to forget.
CHECKS = (
    ("forget_probability", "forget, as asked"),
    ("paraphrase_probability", "forget, rephrased"),
    ("retain_probability", "retain"),
    ("model_utility", "utility"),
    ("lens_leak", "lens leak"),
    ("probe_leak", "probe leak"),
    ("concept_vector_cosine", "concept vectors (cosine)"),
)
GROUPS = (("weights",), ("edits",), ("logits",), ("embedding",), ("gate",))
REFERENCES = ("original", "retain", "never")
DECODING = ("dola", "icd", "lol")


def write(found: Mapping[str, Any], docs: Path) -> None:
    """Write `results/methods.md`, `results/methods.json` and `images/methods.png` under a folder of documents."""
    results, images = docs / "results", docs / "images"
    for folder in (results, images):
        folder.mkdir(parents=True, exist_ok=True)
    (results / "methods.json").write_text(json.dumps(_compact(found)) + "\n", encoding="utf-8")
    picture(found, images / "methods.png")
    (results / "methods.md").write_text("\n".join(page(found)).rstrip() + "\n", encoding="utf-8")


def page(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of methods.md."""
    concepts, seeds = found["concepts"], len(found["seeds"])
    yield from ("# Unlearning methods on the organism", "")
    yield f"Every method forgets the {_items(found['runs'])} facts of one concept of the built-in model and is audited:"
    yield f"concepts {', '.join(concepts)}, {seeds} seeds each where a method draws anything. A method is given each"
    yield "fact in two phrasings, and every other fact of the other concepts to keep; the audit asks in a third"
    yield "phrasing too, and for the facts to keep that were not given. Settings were chosen on"
    yield f"{' and '.join(found['searched_on'])} by what is kept minus what is left, and are listed below."
    yield "Written by `python -m benchmarks.methods`."
    yield from ("", "![what is forgotten against what is kept](../images/methods.png)", "")
    yield from _table(found)
    yield from _papers(found)
    yield from _truthfulness(found["runs"])
    yield from _settings(found)
    m, runs, search = found["machine"], found["runs"], found["search"].values()
    fitting = sum(r.get("seconds") or 0 for r in runs) + sum(r["seconds"] for records in search for r in records)
    yield ""
    commits = {
        name: ", ".join(sorted({r["commit"] for r in records}))
        for name, records in (("searched", [r for some in search for r in some]), ("run", runs))
    }
    how = f"{found['engine']}, {found['workers']} workers"
    versions = ", ".join(f"{name} {m['versions'][name]}" for name in ("torch", "transformers"))
    yield f"Fitting took {fitting / 60:.0f} core minutes in all (search and runs; {how}), without the audits."
    yield f"{m['processor']}, {m['cores']} cores; {versions}. Settings were searched at commit {commits['searched']},"
    yield f"methods run at commit {commits['run']}."


def _table(found: Mapping[str, Any]) -> Iterator[str]:
    runs = found["runs"]
    yield from ("## What the audit finds", "")
    yield "Mean over concepts and seeds; in brackets the 95 % t interval over the concepts. Probabilities are"
    yield "length-normalised; chance is 0.04. *Lens leak*: mean reciprocal rank of the answer at its best block."
    yield "*Probe leak*: how well a linear probe tells the answer from others at its best block; chance is 0.5."
    yield "*Core seconds*: processor time of fitting, on one thread. *Peak*: memory that fitting takes over the"
    yield "loaded model, in megabytes (blank: not measured); *size*: what the intervention holds, in megabytes."
    yield ""
    heads = ["method", "acts on", "claims", *(heading for _, heading in CHECKS), "core seconds", "peak", "size", "runs"]
    yield f"| {' | '.join(heads)} |"
    yield "|---" * len(heads) + "|"
    for name in (*REFERENCES, *_ordered(runs)):
        yield _row(name, [r for r in runs if r["run"]["method"] == name], found)
    yield ""
    yield f"`retain` and `never` are checkpoints that never saw {found['concepts'][0]}, and were asked about that"
    yield "alone: what perfect unlearning of it looks like. A row that counts fewer runs than were tried is the mean"
    yield "of those that worked."
    yield from _failed(runs)


def _papers(found: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "## What the papers say, and what came out", "")
    yield f"Asked of every concept and seed alike ({len(found['concepts'])} x {len(found['seeds'])} runs). *Left* and"
    yield "*kept* are shares of the original's probability of the forget and of the retain answers; *as asked* means"
    yield "in the phrasing that the method was given. *Seeds*: those on which it holds for most concepts; one, where"
    yield "none of the methods draws anything. A run that failed does not hold."
    yield ""
    yield "| methods | paper | what should come out | runs | seeds |"
    yield "|---|---|---|---|---|"
    exceptions = []
    for shape in SHAPES:
        held = outcomes(shape, found["runs"], found["drawn"])
        if held:
            seeds, names = _seeds(held), ", ".join(shape.methods)
            runs = f"{sum(held.values())} of {len(held)}"
            yield f"| {names} | {shape.paper} | {shape.says} | {runs} | {sum(seeds.values())} of {len(seeds)} |"
            exceptions += [] if all(seeds.values()) else [f"{names} ({shape.says})"]
    yield from ("", f"Not reproduced on every seed: {'; '.join(exceptions) or 'none'}.")


def _truthfulness(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    yield from ("", "## Truthfulness", "")
    yield "MC1, MC2 and MC3 of facts that were not given, each against its five perturbed answers; guessing scores 1/6"
    yield "on MC1. The original is right already, so the rise that the papers report cannot be asked for here: what is"
    yield "shown is that nothing is lost."
    yield from ("", "| | MC1 | MC2 | MC3 |", "|---|---|---|---|")
    for name in ("original", *DECODING):
        rows = [r["choice"] for r in runs if r["run"]["method"] == name and r.get("choice")]
        if rows:
            yield f"| {name} | {' | '.join(f'{mean(r[k] for r in rows):.3f}' for k in ('mc1', 'mc2', 'mc3'))} |"


def _settings(found: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "## Settings", "", "| method | chosen | tried | score (kept minus left) |", "|---|---|---|---|")
    for name in _ordered(found["runs"]):
        tried, settings = found["search"].get(name, []), found["chosen"].get(name, [])
        scores = [r["score"] for r in tried if r["run"]["settings"] == settings]
        shown = ", ".join(f"`{pair}`" for pair in settings) or "defaults"
        score = f"{mean(scores):.2f}" if scores else ""
        yield f"| {name} | {shown} | {len({tuple(r['run']['settings']) for r in tried})} | {score} |"


def _items(runs: Sequence[Mapping[str, Any]]) -> int:
    return next(r["results"]["forget_probability"]["n"] for r in runs if r["run"]["method"] == "original")


def _ordered(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    here = {r["run"]["method"] for r in runs}
    return [name for name in METHODS if name in here]


def _row(name: str, records: Sequence[Mapping[str, Any]], found: Mapping[str, Any]) -> str:
    good = [r for r in records if not r["error"]]
    if not good:
        return f"| {name} |" + " |" * (len(CHECKS) + 6)
    cells = [interval(good, check) for check, _ in CHECKS]
    if name in REFERENCES:
        return f"| *{name}* | | | {' | '.join(cells)} | | | | {len(good)} |"
    points = ", ".join(POINTS[point] for point in METHODS[name].points)
    peak = found["memory"].get(name)
    cost = (
        f"{mean(r['seconds'] for r in good):.1f}",
        "" if peak is None else f"{peak:.0f}",
        f"{mean(r['megabytes'] for r in good):.2f}",
    )
    count = str(len(good)) if len(good) == len(records) else f"{len(good)} of {len(records)}"
    return f"| {name} | {points} | {METHODS[name].intent} | {' | '.join((*cells, *cost, count))} |"


def interval(records: Sequence[Mapping[str, Any]], check: str) -> str:
    """Return the mean over concepts, each the mean over its seeds, with the t interval over concepts."""
    found = estimates(records, check)
    if not found:
        return ""
    if len(found) == 1:
        return f"{found[0]:.3f}"
    middle = mean(found)
    half = float(student.ppf(0.975, len(found) - 1)) * stdev(found) / len(found) ** 0.5
    low, high = max(middle - half, -1.0 if check == "concept_vector_cosine" else 0.0), min(middle + half, 1.0)
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


def estimates(records: Sequence[Mapping[str, Any]], check: str) -> list[float]:
    """Return one mean over seeds for each concept that has an estimate."""
    by_concept: dict[str, list[float]] = {}
    for record in records:
        estimate = record["results"].get(check, {}).get("estimate")
        if estimate is not None:
            by_concept.setdefault(record["run"]["concept"], []).append(float(estimate))
    return [mean(values) for values in by_concept.values()]


def outcomes(shape: Shape, runs: Sequence[Mapping[str, Any]], drawn: Sequence[str]) -> dict[tuple[str, int], bool]:
    """Ask every concept and seed on which all methods of a shape were tried; where one failed, it does not hold.

    Args:
        shape: What to ask.
        runs: All records.
        drawn: Methods that have seeds; the one run of any other stands for all.
    """
    groups: dict[tuple[str, int], dict[str, Any]] = {}
    for record in runs:
        run = record["run"]
        groups.setdefault((run["concept"], run["seed"]), {})[run["method"]] = record
    seeds = {seed for _, seed in groups} if set(shape.methods) & set(drawn) else {min(seed for _, seed in groups)}
    found = {}
    for concept, seed in sorted(groups):
        group = {**groups.get((concept, min(seeds)), {}), **groups[concept, seed]}
        if seed in seeds and {*shape.methods, "original"} <= group.keys():
            worked = not any(group[name]["error"] for name in shape.methods)
            found[concept, seed] = worked and shape.holds(group)
    return found


def _seeds(held: Mapping[tuple[str, int], bool]) -> dict[int, bool]:
    seeds = sorted({seed for _, seed in held})
    return {s: mean(ok for (_, seed), ok in held.items() if seed == s) > 0.5 for s in seeds}


def _failed(runs: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    errors = [(r["run"], r["error"]) for r in runs if r["error"]]
    if errors:
        yield from ("", "Runs without a result:", "")
        yield from (f"* {run['method']}, {run['concept']}, seed {run['seed']}: {error}" for run, error in errors)


def _compact(found: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what only the page's making needs: one value per item."""
    runs = []
    for record in found["runs"]:
        results = {
            check: {key: value for key, value in row.items() if key not in ("per_item", "note")}
            for check, row in record.get("results", {}).items()
        }
        runs.append({**record, "results": results} if results else record)
    shapes = [
        {
            "methods": list(shape.methods),
            "paper": shape.paper,
            "says": shape.says,
            "runs": {f"{concept}, seed {seed}": ok for (concept, seed), ok in _all_outcomes(shape, found)},
        }
        for shape in SHAPES
    ]
    return {**found, "runs": runs, "shapes": shapes}


def _all_outcomes(shape: Shape, found: Mapping[str, Any]) -> list[tuple[tuple[str, int], bool]]:
    return list(outcomes(shape, found["runs"], found["drawn"]).items())


def picture(found: Mapping[str, Any], path: Path) -> None:
    """Draw what is forgotten against what is kept, as asked and inside, with the front that no other method beats.

    Decoding for truthfulness is left out: it is not meant to forget.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {"weights": "#3b6fb6", "edits": "#c8553d", "gate": "#8a6d3b", "logits": "#2e8b57"}
    figure, axes = plt.subplots(1, 2, figsize=(16, 8), sharey=True, constrained_layout=True)
    panels = (("paraphrase_probability", "rephrased questions", 1e-4), ("lens_leak", "logit lens", 0.02))
    for axis, (check, label, smallest) in zip(axes, panels, strict=True):
        # The left share falls over orders of magnitude, so it is drawn on a logarithmic axis, less of it to the right.
        points = {n: (1 - x, y) for n, (x, y) in _points(found["runs"], check).items() if n not in DECODING}
        points = {n: (max(x, smallest), y) for n, (x, y) in points.items()}
        front = _front({n: (-x, y) for n, (x, y) in points.items()})
        axis.set(xscale="log", xlim=(1.3, smallest / 2.5), ylim=(0.45, 1.08))
        axis.plot([-p[0] for p in front.values()], [p[1] for p in front.values()], color="0.6", lw=1, zorder=1)
        for name, (x, y) in points.items():
            axis.scatter(x, y, s=30, color=colours[METHODS[name].points[-1]], zorder=2)
        axis.set_xlabel(f"left / original, {label} (right is forgotten)")
        axis.grid(alpha=0.25)
        figure.canvas.draw()
        _name(axis, points)
    axes[0].set_ylabel("kept: retain probability / original")
    handles = [plt.Line2D([], [], marker="o", ls="", color=c, label=POINTS[point]) for point, c in colours.items()]
    axes[0].legend(handles=handles, loc="lower left", fontsize=8)
    figure.suptitle("What is forgotten against what is kept; the line joins methods that no other beats on both")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _name(axis: Any, points: Mapping[str, tuple[float, float]]) -> None:
    """Write names beside points, moved down until none covers another."""
    width, height = 5.2, 10.0
    taken: list[tuple[float, float, float]] = []
    for name, point in sorted(points.items(), key=lambda item: -item[1][1]):
        x, y = axis.transData.transform(point)
        wide, at = width * len(name), y
        while any(x < right and left < x + wide and abs(at - level) < height for left, right, level in taken):
            at -= height
        taken.append((x, x + wide, at))
        axis.annotate(
            name, point, xytext=(6, at - y - 3), textcoords="offset pixels", fontsize=7,
            arrowprops={"arrowstyle": "-", "color": "0.8", "lw": 0.5, "shrinkA": 0, "shrinkB": 2} if at < y else None,
        )  # fmt: skip


def _points(runs: Sequence[Mapping[str, Any]], check: str) -> dict[str, tuple[float, float]]:
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for record in runs:
        by_name.setdefault(record["run"]["method"], []).append(record)
    # A method that failed somewhere has no fair place in the picture.
    by_name = {name: records for name, records in by_name.items() if not any(r["error"] for r in records)}
    original = by_name["original"]
    found = {}
    for name, records in by_name.items():
        here = [estimates(records, c) for c in (check, "retain_probability")]
        if name in METHODS and all(here):
            x, y = (
                mean(values) / mean(estimates(original, c))
                for values, c in zip(here, (check, "retain_probability"), strict=True)
            )
            found[name] = (1 - x, y)
    return found


def _front(points: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    best = {
        name: (x, y)
        for name, (x, y) in points.items()
        if not any((a >= x and b > y) or (a > x and b >= y) for a, b in points.values())
    }
    return dict(sorted(best.items(), key=lambda item: item[1]))
