"""What all instruments of an audit say together of each subject: the residual knowledge score, and where on the way
from suppression to removal that places it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.resources import files
from typing import Any

from vestige.calibration.conclude import concluded
from vestige.calibration.score import Models, ResidualScore
from vestige.claims import placed
from vestige.result import AuditReport, ResidualKnowledge
from vestige.shares import shares_of
from vestige.signs import signs_of, table_of


def residual_knowledge(report: AuditReport) -> tuple[ResidualKnowledge, ...]:
    """Return the score of every subject but the original, with attacks where most that were fitted gave one.

    Needs a model that never learnt the facts (or one retrained without them), without which there is no scale.

    Args:
        report: Its results and attacks; what it says already of residual knowledge is not read.
    """
    fitted, table = fitted_scores(), table_of(report.results, report.concept_vectors)
    original = report.subjects[0].name
    found = []
    for subject in report.subjects[1:]:
        shares = shares_of(report, subject.name)
        if (answer := concluded(fitted, shares)) is None:
            continue
        kind, said = answer
        known = ResidualKnowledge(
            subject=subject.name,
            instruments=kind,
            score=said.score,
            probability=said.probability,
            abstains=said.abstains,
            loudest=said.loudest,
            missing=said.missing,
        )
        signs = signs_of(table, subject.name, original) if subject.kind == "unlearned" else None
        found.append(known if signs is None else replace(known, placed=placed(signs, known)))
    return tuple(found)


@cache
def fitted_scores() -> Mapping[str, ResidualScore]:
    """Return the scores that calibration fitted, by what they listen to."""
    text = files("vestige.calibration").joinpath("scores.json").read_text(encoding="utf-8")
    fitted: dict[str, Any] = json.loads(text)
    models = Models.from_json(fitted["models"])
    return {name: ResidualScore.from_json(score, models) for name, score in fitted["scores"].items()}
