"""Calibrate the audit: fit the residual knowledge score on some worlds and say what it and all instruments are
worth on others. Writes docs/results/calibration.{md,json,png}, and the fitted scores that the audit uses.

About a hundred and fifty core minutes from nothing; goes on from what is in the folder for work.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.timing import commit, machine
from vestige.calibrate import calibrate, save, to_json

ROOT = Path(__file__).parents[1]

LOOKED_AT = (
    "What is in the pool, what the scores weigh and how `distilled_removal` works was decided while worlds 1 to 4 were "
    "looked at, and no other."
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for models and records")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--engine", choices=("local", "ray"), default="local")
    parser.add_argument("--address")
    arguments = parser.parse_args()
    found = calibrate(arguments.work, engine=arguments.engine, workers=arguments.workers, address=arguments.address)
    note = f"{LOOKED_AT} [robustness.md](robustness.md) has robustness at other strengths of relearning."
    about = {"command": "python -m benchmarks.calibration", "commit": commit(), "machine": machine(), "note": note}
    save(found, ROOT / "docs" / "results", about=about)
    models = found.scores[list(found.scores)[-1]].models
    scores = {
        "fitted_on": list(found.fitted_on),
        "scores": to_json(found)["scores"],
        "models": models and models.to_json(),
    }
    (ROOT / "vestige" / "calibration" / "scores.json").write_text(json.dumps(scores) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
