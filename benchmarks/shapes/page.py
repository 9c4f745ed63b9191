"""What came out of the shapes, as a page and as numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from benchmarks.shapes.answers import ANSWER_SHAPES
from benchmarks.shapes.attacks import ATTACK_SHAPES
from benchmarks.shapes.claims import Numbers, Shape
from benchmarks.shapes.depth import DEPTH_SHAPES
from benchmarks.shapes.exceptions import reason
from benchmarks.shapes.lenses import LENS_SHAPES
from benchmarks.shapes.runs import EDITS, LADDERS, METHODS
from benchmarks.shapes.tampering import TAMPERING_SHAPES
from benchmarks.shapes.untested import UNTESTED

SHAPES: tuple[Shape, ...] = (*ANSWER_SHAPES, *DEPTH_SHAPES, *LENS_SHAPES, *TAMPERING_SHAPES, *ATTACK_SHAPES)
# Of a probe that tells true answers from others.
CHANCE = 0.5
KINDS = {"published": "from papers", "own": "of the specification itself", "given": "by construction"}


def decided(numbers: Mapping[int, Numbers]) -> list[dict[str, Any]]:
    """Ask every shape of every seed.

    Args:
        numbers: Seed to what was measured.

    Returns:
        JSON values, one per shape: its words, and for each seed the terms and whether it came out.
    """
    found = []
    for number, shape in enumerate(SHAPES, 1):
        terms = {
            str(seed): {t.label: _rounded(t.read(mine)) for t in shape.claim.terms} for seed, mine in numbers.items()
        }
        held = {str(seed): shape.claim.holds(mine) for seed, mine in numbers.items()}
        found.append(
            {
                "number": number,
                "kind": shape.kind,
                "section": shape.section,
                "source": shape.source,
                "says": shape.says,
                "terms": terms,
                "holds": held,
            }
        )
    return found


def write(
    numbers: Mapping[int, Numbers], folder: Path, *, looked_at: int, fresh: int, about: Mapping[str, Any]
) -> None:
    """Write `shapes.json` and `shapes.md` into a folder.

    Args:
        numbers: Seed to what was measured.
        folder: Of results.
        looked_at: The seed on which settings were fixed.
        fresh: The seed of which nothing was known when everything was settled.
        about: The command, the commit and the machine.
    """
    found = {
        "looked_at": looked_at,
        "fresh": fresh,
        "seeds": sorted(numbers),
        "shapes": decided(numbers),
        "not_tested": [{"section": s, "says": says, "why": why} for s, says, why in UNTESTED],
        "settings": {name: [method, *pairs] for name, (method, pairs) in {**METHODS, **EDITS}.items()},
        "rungs": {
            name: {
                "method": [method, *pairs],
                "chosen": {str(seed): ladder[int(numbers[seed][f"{name}/mild"]["rung"])] for seed in sorted(numbers)},
                "ladder": list(ladder),
            }
            for name, (method, pairs, ladder) in LADDERS.items()
        },
        **about,
    }
    (folder / "shapes.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    (folder / "shapes.md").write_text("\n".join(page(found)) + "\n", encoding="utf-8")


def times(shape: Mapping[str, Any], seeds: Sequence[int]) -> int:
    """Return on how many of some seeds a shape holds."""
    return sum(shape["holds"][str(seed)] for seed in seeds)


@dataclass(frozen=True)
class Counts:
    """How many shapes of one kind came out.

    Args:
        every: On every seed.
        three: On three seeds or more.
        seeds: On each seed.
        n: Of how many.
    """

    every: int
    three: int
    seeds: Mapping[int, int]
    n: int


def counts(found: Mapping[str, Any]) -> dict[str, Counts]:
    """Count the shapes of every kind."""
    made = {}
    for kind in KINDS:
        some, seeds = [s for s in found["shapes"] if s["kind"] == kind], found["seeds"]
        often = [times(shape, seeds) for shape in some]
        by_seed = {seed: sum(shape["holds"][str(seed)] for shape in some) for seed in seeds}
        made[kind] = Counts(sum(n == len(seeds) for n in often), sum(n >= 3 for n in often), by_seed, len(some))
    return made


def page(found: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of shapes.md."""
    seeds, shapes = found["seeds"], found["shapes"]
    published = counts(found)["published"]
    yield from ("# What papers report of metrics and attacks, and what comes out", "")
    yield "A shape is a direction: which of two numbers is larger, or its sign. No number of a paper is asked for. A"
    yield "seed is a world, a concept with its 20 facts, and lessons drawn for it, with an original, a retrained and a"
    yield "never-taught model, and all that is fitted to the original. Margins were written down before any of these"
    yield f"models was asked; settings and ladders were fixed on seed {found['looked_at']}, which is not counted. That"
    yield "some shapes are asked of a method where it has just forgotten (`/mild`, below), and which, was decided when"
    yield "earlier results of the same seeds were known: with each method as the methods benchmark had chosen it, often"
    yield "far past the point where the answers are gone, 35 of 81 came out on seeds 1, 2 and 3. What comes out of"
    yield "the unlearning methods themselves is in [methods.md](methods.md). Written by `python -m benchmarks.shapes`."
    yield ""
    yield f"**{_part(published.every, published.n)} published shapes come out on all {len(seeds)} seeds**, where the"
    yield f"aim is 90 %, and {_part(published.three, published.n)} on three or more. Exceptions are below."
    if found["fresh"] in seeds:
        yield f"Of seed {found['fresh']} nothing was known when settings, margins and what is asked of whom were fixed."
    yield ""
    yield f"| shapes | on every seed | on three or more | {' | '.join(f'seed {seed}' for seed in seeds)} | of |"
    yield "|---" * (len(seeds) + 4) + "|"
    for kind, mine in counts(found).items():
        cells = (mine.every, mine.three, *mine.seeds.values())
        yield f"| {KINDS[kind]} | {' | '.join(f'{n} ({n / mine.n:.0%})' for n in cells)} | {mine.n} |"
    yield f"| not tested |{' |' * (len(seeds) + 2)} {len(found['not_tested'])} |"
    yield ""
    yield "What holds by construction shows that an instrument is wired up, and counts for nothing else."
    yield from _how()
    yield from _probe(shapes, seeds)
    for kind, title in (("published", "Published"), ("own", "Of the specification"), ("given", "By construction")):
        yield from ("", f"## {title}", "")
        yield "The seeds' columns have what is compared, in the order of the column before. **Bold**: it came out."
        yield ""
        columns = [*(f"seed {seed}" for seed in seeds), "came out"]
        yield f"| | section, source | what should come out | compared | {' | '.join(columns)} |"
        yield "|---" * (len(columns) + 4) + "|"
        yield from (_row(shape, seeds) for shape in shapes if shape["kind"] == kind)
    yield from _exceptions(shapes, seeds)
    yield from ("", "## Not tested", "", "| section | what is reported | why it is not asked |", "|---|---|---|")
    yield from (f"| {row['section']} | {row['says']} | {row['why']} |" for row in found["not_tested"])
    yield from _settings(found)
    m = found["machine"]
    yield from ("", f"{m['processor']}, {m['cores']} cores; commit {found['commit']}.")


def _settings(found: Mapping[str, Any]) -> Iterator[str]:
    shapes, seeds = found["shapes"], found["seeds"]
    yield from ("", "## Settings", "")
    yield "As [methods.md](methods.md) chose them on the shipped model; `to the end` without a stop, as published:"
    yield ""
    yield from (f"* {name}: {_code(what)}" for name, what in found["settings"].items())
    yield ""
    mild = [shape["number"] for shape in shapes if any("/" in name for name in shape["terms"][str(seeds[0])])]
    yield "`/mild` is the first rung of a ladder that leaves less than half of the answers, found on each seed, so that"
    yield "half of the answers are gone there is given; on the lowest rung it may be past that point. A sweep is that"
    yield "rung and the next two, `/second` and `/third`, or the last where the ladder ends. Asked of such rungs are"
    yield f"{', '.join(map(str, mild))}; all other shapes are of the settings above."
    yield ""
    for name, row in found["rungs"].items():
        lowest = row["ladder"][0]
        chosen = ", ".join(
            f"seed {seed}: {rung}{' (the lowest)' if rung == lowest else ''}" for seed, rung in row["chosen"].items()
        )
        yield f"* {name}: {_code(row['method'])}, ladder {_code(row['ladder'])}; `/mild` on {chosen}"


def _how() -> Iterator[str]:
    yield from ("", "## How a shape is decided", "")
    yield "What attacks bring back, and what is still found inside, is asked of subjects that had forgotten: less"
    yield "than half of the answers' probability is `left` when plainly asked. An attack that recovers ends above the"
    yield "plain question; one that trains, or that reads inside, also above the same attack on the model that never"
    yield "knew. Where little should happen, the subject still works (utility above 0.5). These conditions were added"
    yield "after all seeds were looked at. They make shapes harder to pass, but for one: benign relearning is"
    yield "compared with relearning on the facts after five steps, since after twenty the model that never knew has"
    yield "learnt the facts as well. A method that diverged on a seed has no numbers there (`none`), and no claim"
    yield "about it comes out. Utility is asked about concepts that no method was given to keep."
    yield ""
    yield "The shapes of faithfulness have a limit. Their models that do not know are made of the never-taught one,"
    yield "which had the lesson seed of the original and the retrained model; those that know were taught again with"
    yield "another. A metric that compares with these two may tell the lessons apart and not the knowledge."


def _probe(shapes: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> Iterator[str]:
    label = "probe_leak of original"
    found = [s["terms"][str(seed)].get(label) for s in shapes for seed in seeds]
    read = [value for value in found if value is not None]
    if read and max(read) < CHANCE:
        yield ""
        yield f"The linear probe is below chance ({CHANCE}) on the originals, which know every fact ({min(read):.2f} to"
        yield f"{max(read):.2f}): with 20 facts it finds nothing on these worlds, and shapes of the probe say little,"
        yield "whether they come out or not."


def _row(shape: Mapping[str, Any], seeds: Sequence[int]) -> str:
    cells = []
    for seed in seeds:
        values = " / ".join(_shown(v) for v in shape["terms"][str(seed)].values())
        cells.append(f"**{values}**" if shape["holds"][str(seed)] else values)
    compared = " / ".join(shape["terms"][str(seeds[0])])
    where = f"{shape['section']}; {shape['source']}"
    often = f"{times(shape, seeds)} of {len(seeds)}"
    return f"| {shape['number']} | {where} | {shape['says']} | {compared} | {' | '.join(cells)} | {often} |"


def _exceptions(shapes: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> Iterator[str]:
    yield from ("", "## Exceptions", "", "Shapes that did not come out on every seed, with the likely reason.", "")
    for shape in shapes:
        if (n := times(shape, seeds)) < len(seeds):
            yield f"* {shape['number']} ({n} of {len(seeds)}). {shape['says']}: {reason(shape['says'])}"


def _part(n: int, of: int) -> str:
    return f"{n} of {of} ({n / of:.0%})"


def _code(parts: Sequence[str]) -> str:
    return " ".join(f"`{part}`" for part in parts)


def _rounded(number: float) -> float | None:
    return float(f"{number:.6g}") if isfinite(number) else None


def _shown(number: float | None) -> str:
    if number is None:
        return "none"
    return f"{number:.2f}" if abs(number) < 10 else f"{number:.0f}"
