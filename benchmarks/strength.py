"""How robustness depends on how hard models are relearned. Writes docs/results/robustness.{md,json,png}.

Reads the records and organisms of calibration from its work folder (or makes them there), makes the same models forget
by the same methods, and relearns and audits them at other rates. About fifteen core minutes per concept; goes on from
what is in the folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from inspect import signature
from itertools import product
from math import nan
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from textwrap import wrap
from typing import Any

import torch

from benchmarks.calibration import LOOKED_AT
from benchmarks.kept import kept
from benchmarks.timing import commit, machine
from vestige.auditing import audit
from vestige.calibrate import FIT, HELD
from vestige.calibration.audits import VERSION, audited
from vestige.calibration.bases import base
from vestige.calibration.evaluate import CONTROL, Robustness, evaluated
from vestige.calibration.pool import make_task
from vestige.calibration.relearn import relearned
from vestige.calibration.tampered import METHODS, RATE, tampered
from vestige.shares import shares_of

ROOT = Path(__file__).parents[1]
CONCEPTS = (0, 1)
# Beside the rate at which calibration relearns, whose records are there.
RATES = (1e-4, 2e-4, 1e-3, 2e-3)
SHOWN = (
    "score (quick)",
    "score (checks)",
    "depth_leak",
    "lens_depth_leak",
    "lens_leak",
    "forget_probability",
    "attack:forced_choice",
    "attack:format_shift",
    "attack:relearning",
)
TABLES = (
    (
        "all",
        "robustness",
        "Robustness",
        "Harmonic mean of relearning and quantisation; in brackets on how many models.",
    ),
    (
        "forgotten",
        "robustness",
        "Where forgotten",
        "The same as published comparisons have it, on models that the instrument itself calls forgotten and that kept "
        "four fifths of their utility.",
    ),
    (
        "never",
        "relearning",
        "Never taught",
        "The control: relearning alone, of models that never knew. What lacks to 1 here is no knowledge that was left.",
    ),
)
GOAL = 0.95
_SOFT, _CONTROL = "#535e66", "#b4430c"

Record = Mapping[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder of `python -m benchmarks.calibration`")
    work = parser.parse_args().work
    work.mkdir(parents=True, exist_ok=True)
    tasks = list(product(HELD, CONCEPTS))
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        others = list(pool.map(partial(record, work=work), *zip(*tasks, strict=True)))
    fit = [audited(world, which, work, tamper=False) for world, which in product(FIT, CONCEPTS)]
    held = [audited(world, which, work) for world, which in tasks]
    found = {
        rate: measured(fit, [at(one, other, rate) for one, other in zip(held, others, strict=True)])
        for rate in sorted((RATE, *RATES))
    }
    about = {"command": "python -m benchmarks.strength", "commit": commit(), "machine": machine(), "note": LOOKED_AT}
    results = ROOT / "docs" / "results"
    document = {**about, "usual": RATE, "rates": {f"{rate:g}": row for rate, row in found.items()}}
    (results / "robustness.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    (results / "robustness.md").write_text("\n".join(page(found, about)) + "\n", encoding="utf-8")
    draw(found, results / "robustness.png")


def record(world: int, which: int, *, work: Path) -> Record:
    """Return what instruments say of the models of one task after relearning, by rate and name."""
    asked: dict[str, Any] = {"version": VERSION, "rates": list(RATES)}
    asked["methods"] = {name: [str(signature(method)), settings] for name, (method, settings) in METHODS.items()}
    return kept(work / f"strength-{world}-{which}.json", asked, lambda: _shares(world, which, work))


def _shares(world: int, which: int, work: Path) -> Record:
    torch.set_num_threads(1)
    made_of, drawn = base(world, work), 100 * world + which
    task = make_task(made_of, which, seed=drawn)
    models = {one.name: one.before for one in tampered(task, seed=drawn)}
    wanted = list(product(RATES, models))
    report = audit(
        task.original,
        unlearned=[
            relearned(models[name], task.given, epochs=1, keep=False, lr=rate, seed=drawn) for rate, name in wanted
        ],
        data=task.data,
        retrained=task.retrained,
        never=task.never,
        lexicon=[fact.word for fact in made_of.world.facts_of(task.concept)],
        suite="quick",
        seed=world,
        batch_size=64,
        max_items=64,
        progress=False,
    )
    names = [subject.name for subject in report.subjects if subject.kind == "unlearned"]
    shares: dict[str, dict[str, Any]] = {}
    for (rate, name), subject in zip(wanted, names, strict=True):
        shares.setdefault(f"{rate:g}", {})[name] = shares_of(report, subject)
    return {"shares": shares}


def at(one: Record, other: Record, rate: float) -> Record:
    """Return a record of calibration as if models had been relearned at another rate.

    Args:
        one: From `audited`.
        other: From `record`, of the same task.
        rate: One of `RATES`, or `tampered.RATE` for the record as it is.
    """
    if rate == RATE:
        return one
    shares = other["shares"][f"{rate:g}"]
    subjects = [{**s, "shares": shares[s["name"]]} if s["state"] == "relearned" else s for s in one["subjects"]]
    return {**one, "subjects": subjects}


def measured(fit: Sequence[Record], held: Sequence[Record]) -> dict[str, Any]:
    """Return JSON values: how robust instruments are, and what the score says after relearning."""
    found = evaluated(fit, held, suite="quick")
    return {
        "instruments": {
            worth.name: {
                "all": _values(worth.robustness),
                "forgotten": _values(worth.forgotten),
                "never": _values(worth.control),
            }
            for worth in found.worths
            if worth.name in SHOWN
        },
        "scores": {one.name: mean(one.scores["relearned"]) for one in found.forgetting},
        "before": {one.name: mean(one.scores["before"]) for one in found.forgetting},
    }


def _values(robustness: Robustness | None) -> dict[str, float] | None:
    if robustness is None:
        return None
    return {"robustness": robustness.both, "relearning": robustness.relearning, "n": robustness.n}


def page(found: Mapping[float, Mapping[str, Any]], about: Mapping[str, Any]) -> Iterator[str]:
    """Return the page, line by line."""
    first = next(iter(found.values()))
    yield from (
        "# How robustness depends on how hard models are relearned",
        "",
        "Robustness asks whether tampering moves an instrument on a model that was made to forget as it does on the",
        "retrained one ([calibration.md](calibration.md)). There, tampering is one pass over the facts at a rate of",
        f"{RATE:g}; here it is one pass at other rates, on the same models, and everything else is as it was there.",
        "",
        f"Written by `{about['command']}`, commit {about['commit']}.",
        *wrap(about.get("note", ""), 115),
        "",
        "![robustness at several rates](robustness.png)",
        "",
        *wrap(_summary(found), 115),
        "",
        "## What one pass gives back",
        "",
        "The score with attacks before and after, means over the tasks. `retrained` and `never` were not taught the",
        "facts, so what they gain is what the pass itself teaches.",
        "",
        f"| model | before | {' | '.join(f'{rate:g}' for rate in found)} |",
        "|---" * (len(found) + 2) + "|",
    )
    for name, before in first["before"].items():
        after = [f"{row['scores'][name]:.2f}" for row in found.values()]
        yield f"| {name} | {before:.2f} | {' | '.join(after)} |"
    for key, of, title, said in TABLES:
        yield from ("", f"## {title}", "", *wrap(said, 115), "")
        yield f"| instrument | {' | '.join(f'{rate:g}' for rate in found)} |"
        yield "|---" * (len(found) + 1) + "|"
        for name in SHOWN:
            yield f"| {name} | {' | '.join(_cell(row['instruments'][name][key], of) for row in found.values())} |"


def _summary(found: Mapping[float, Mapping[str, Any]]) -> str:
    def ends(name: str, key: str, of: str) -> str:
        there = [row["instruments"][name][key] for row in found.values()]
        values = [one[of] for one in there if one is not None]
        return f"{min(values):.2f} and {max(values):.2f}" if values else "not measured"

    cells = [row["instruments"][name]["all"] for row in found.values() for name in SHOWN]
    best = max((one["robustness"] for one in cells if one is not None), default=0.0)
    score, depth = SHOWN[0], "depth_leak"
    mine, uds = (ends(name, "all", "robustness") for name in (score, depth))
    alone = ends(score, "never", "relearning")
    return (
        f"At the {len(found)} rates the robustness of the score with attacks lies between {mine}, that of UDS as "
        f"published (`{depth}`) between {uds}; the best in the first table of robustness is {best:.2f}. On models "
        f"that never knew, relearning robustness of the score alone lies between {alone}: two that know nothing do not "
        "learn alike either, so not all that lacks to 1 is knowledge that was left."
    )


def _cell(values: Mapping[str, float] | None, of: str) -> str:
    return "" if values is None else f"{values[of]:.3f} ({values['n']})"


def _apart(heights: Mapping[str, float]) -> dict[str, float]:
    """Return heights of labels, moved up where one would cover that below it."""
    placed: dict[str, float] = {}
    for name in sorted(heights, key=heights.__getitem__):
        placed[name] = max(heights[name], max(placed.values(), default=-1.0) + 0.04)
    return placed


def draw(found: Mapping[float, Mapping[str, Any]], path: Path) -> None:
    """Write the picture: what one pass gives back, and how robust instruments are, at every rate."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with matplotlib.rc_context({"font.family": ["DejaVu Sans"], "font.size": 9, "axes.edgecolor": _SOFT}):
        figure = Figure(figsize=(10.5, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        for name in next(iter(found.values()))["scores"]:
            color, width = (_CONTROL, 2.4) if name in ("retrained", CONTROL) else (None, 1.3)
            left.plot(list(found), [row["scores"][name] for row in found.values()], "o-", ms=3.5, lw=width, color=color)
        for name, height in _apart(found[max(found)]["scores"]).items():
            color = _CONTROL if name in ("retrained", CONTROL) else _SOFT
            left.text(max(found) * 1.06, height, name, color=color, va="center")
        left.set_title("What one pass gives back", loc="left")
        left.set_ylabel("score with attacks, after")
        for name in SHOWN:
            values = [row["instruments"][name]["all"] for row in found.values()]
            heights = [nan if one is None else one["robustness"] for one in values]
            right.plot(list(found), heights, "o-", ms=3.5, lw=2.4 if name.startswith("score") else 1.3, label=name)
        right.axhline(GOAL, color=_SOFT, lw=0.8, ls=":")
        right.set_ylim(0, 1.02)
        right.set_title("Robustness (dots: the aim)", loc="left")
        right.legend(frameon=False, fontsize=8)
        for axes in (left, right):
            axes.set_xscale("log")
            axes.set_xticks(list(found), [f"{rate:g}" for rate in found])
            axes.minorticks_off()
            axes.set_xlabel(f"rate of the one pass; {RATE:g} is that of calibration")
        left.set_xlim(min(found) * 0.8, max(found) * 4.4)
        figure.savefig(path, dpi=150, metadata={"Software": None})


if __name__ == "__main__":
    main()
