"""What all instruments of an audit say together of each subject: the residual knowledge score, and where on the way
from suppression to removal that places it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from vestige.calibration.score import UNSURE, Models, ResidualScore
from vestige.claims import placed
from vestige.result import AuditReport, ResidualKnowledge
from vestige.shares import shares_of
from vestige.signs import signs_of, table_of

# Share of the weight of its attacks with which a score can be used.
ENOUGH = 0.75


def residual_knowledge(report: AuditReport) -> tuple[ResidualKnowledge, ...]:
    """Return the score of every subject but the original, with attacks where nearly all that were fitted gave one.

    Needs a model that never learnt the facts (or one retrained without them), without which there is no scale.

    Args:
        report: Its results and attacks; what it says already of residual knowledge is not read.
    """
    fitted, table = fitted_scores(), table_of(report.results, report.concept_vectors)
    original = report.subjects[0].name
    found = []
    for subject in report.subjects[1:]:
        shares = shares_of(report, subject.name)
        there = {name for name, value in shares.items() if value is not None}
        kind = next((kind for kind, score in fitted.items() if _heard(score, there) >= ENOUGH), "checks")
        if there.isdisjoint(fitted[kind].instruments):
            continue
        said = fitted[kind](shares)
        known = ResidualKnowledge(
            subject=subject.name,
            instruments=kind,
            score=said.score,
            probability=said.probability,
            # What only attacks bring back is not heard without them, so nothing is called gone.
            abstains=said.abstains or (kind == "checks" and said.probability <= UNSURE[1]),
            loudest=said.loudest,
            missing=said.missing,
        )
        signs = signs_of(table, subject.name, original) if subject.kind == "unlearned" else None
        found.append(known if signs is None else replace(known, placed=placed(signs, known)))
    return tuple(found)


def _heard(score: ResidualScore, there: set[str]) -> float:
    """Return how much of the weight of a score's attacks is on those that gave a share; 0 for one without attacks."""
    weights = {n: w for n, w in zip(score.instruments, score.weights, strict=True) if n.startswith("attack:")}
    total = sum(weights.values())
    return sum(w for name, w in weights.items() if name in there) / total if total else 0.0


@cache
def fitted_scores() -> Mapping[str, ResidualScore]:
    """Return the scores that calibration fitted, by what they listen to."""
    text = files("vestige.calibration").joinpath("scores.json").read_text(encoding="utf-8")
    fitted: dict[str, Any] = json.loads(text)
    models = Models.from_json(fitted["models"])
    return {name: ResidualScore.from_json(score, models) for name, score in fitted["scores"].items()}
