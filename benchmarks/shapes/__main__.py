"""What papers report of metrics and attacks, asked of models of several worlds: which of it comes out.

Writes docs/results/shapes.md and shapes.json. About twelve core minutes for each seed, two of them to teach its models
(and more where the folder does not have its world); goes on from what is in the folder for work.

Run with: .venv/bin/python -m benchmarks.shapes --work FOLDER
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.shapes.models import seed_of
from benchmarks.shapes.page import write
from benchmarks.shapes.runs import numbers_of
from benchmarks.timing import commit, machine

# Settings and margins were fixed on the first, which does not count. Of the last nobody knew anything when these, and
# what is asked of which model, were settled.
LOOKED_AT, SEEDS, FRESH = 1, (2, 3, 4, 7), 7
RESULTS = Path(__file__).parents[2] / "docs" / "results"


def main() -> None:
    """Measure what is missing, decide, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for models and numbers; kept between calls")
    parser.add_argument("--seeds", type=int, nargs="*", default=list(SEEDS), help="of worlds, lessons and all else")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    numbers = {seed: numbers_of(seed_of(seed, arguments.work), arguments.work) for seed in arguments.seeds}
    about = {"command": "python -m benchmarks.shapes", "commit": commit(), "machine": machine()}
    write(numbers, RESULTS, looked_at=LOOKED_AT, fresh=FRESH, about=about)


if __name__ == "__main__":
    main()
