"""The residual knowledge score of an audit, and where it places a method."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vestige.attacks.catalogue import chosen
from vestige.calibration.conclude import ENOUGH
from vestige.calibration.score import fit_residual_score
from vestige.residual import fitted_scores, residual_knowledge
from vestige.result import AttackResult, AuditReport, ConceptVectorRow, ResidualKnowledge, Result, SubjectInfo
from vestige.shares import CHECKS

QUICK = [row.name for row in chosen("quick", ())]
LOUD = {"original": 1.0, "x": 1.0, "never": 0.0}


def report(
    level: float, *, attack: float | None = None, hidden: float = 0.0, never: bool = True, **changed: float
) -> AuditReport:
    """An audit of a method, on which every check stands at a level between the never-taught model and the original."""
    subjects = (SubjectInfo("original", "original"), SubjectInfo("x", "unlearned"), SubjectInfo("never", "never"))
    values = {"original": 1.0, "x": level, "never": 0.0}
    results = [
        Result(check, name, changed.get(check, value) if name == "x" else value, control=0.0 if never else None)
        for check in CHECKS
        for name, value in values.items()
    ]
    results.append(Result("suppression_index", "x", hidden))
    attacks: list[AttackResult] = []
    if attack is not None:
        gaps = {"original": 1.0, "x": attack, "never": 0.0}
        attacks = [AttackResult(name, subject, gap, gap=gap) for name in QUICK for subject, gap in gaps.items()]
    return AuditReport({}, subjects, tuple(results), attacks=tuple(attacks))


def of(**given: Any) -> ResidualKnowledge:
    return next(one for one in residual_knowledge(report(**given)) if one.subject == "x")


def test_the_shipped_scores_listen_to_what_audits_measure() -> None:
    scores = fitted_scores()
    assert set(scores) == {"checks", "quick"}
    assert set(scores["checks"].instruments) <= set(CHECKS)
    assert {n for n in scores["quick"].instruments if n.startswith("attack:")} == {f"attack:{name}" for name in QUICK}


def test_the_shipped_scores_are_those_whose_worth_is_published() -> None:
    root = Path(__file__).parents[2]
    shipped = json.loads((root / "vestige" / "calibration" / "scores.json").read_text())
    published = json.loads((root / "docs" / "results" / "calibration.json").read_text())
    assert shipped["scores"] == published["scores"]
    assert shipped["fitted_on"] == published["fitted_on"]
    assert set(published["fitted_on"]).isdisjoint(published["held_out"])


@pytest.mark.parametrize("kind", ["checks", "quick"])
def test_the_shipped_models_are_those_that_the_scores_were_fitted_on(kind: str) -> None:
    score = fitted_scores()[kind]
    assert score.models is not None
    columns = [[np.nan if v is None else v for v in score.models.shares[name]] for name in score.instruments]
    knows = np.array(score.models.knows)
    again = fit_residual_score(np.array(columns).T, knows, score.instruments, penalty=score.penalty)
    np.testing.assert_allclose((*again.weights, again.bias), (*score.weights, score.bias), rtol=1e-6, atol=1e-9)
    assert knows.sum() == 72


def test_with_half_of_the_attacks_no_model_that_knows_is_called_gone_in_a_world_left_out() -> None:
    score = fitted_scores()["quick"]
    assert score.models is not None
    shares = np.array([[np.nan if v is None else v for v in score.models.shares[n]] for n in score.instruments]).T
    knows, rng = np.array(score.models.knows), np.random.default_rng(0)
    # Members of a world stand together, as many of each.
    second = np.arange(len(knows)) >= len(knows) // 2
    weight = {n: w for n, w in zip(score.instruments, score.weights, strict=True) if n.startswith("attack:")}

    def missed(most: float, least: float) -> int:
        count, tried = 0, 0
        while tried < 15:
            kept = [n for n in score.instruments if n not in weight or rng.random() < rng.choice([0.3, 0.6])]
            heard = sum(weight.get(n, 0.0) for n in kept) / sum(weight.values())
            if not least <= heard < most:
                continue
            tried += 1
            columns = [score.instruments.index(n) for n in kept]
            for out in (second, ~second):
                fitted = fit_residual_score(shares[~out][:, columns], knows[~out], kept, penalty=score.penalty)
                rows = shares[out & knows][:, columns]
                count += sum(fitted(dict(zip(kept, row, strict=True))).probability <= 0.1 for row in rows)
        return count

    assert missed(0.7, ENOUGH) == 0
    # The control: with a quarter some are.
    assert missed(0.25, 0.0) > 0


def test_both_ends_of_the_scale_are_told_apart() -> None:
    for attack in (None, 1.0):
        found = of(level=1.0, attack=attack)
        assert found.score == pytest.approx(1)
        assert found.probability > 0.99
        assert not found.abstains
    gone = of(level=0.0, attack=0.0)
    assert gone.score == 0
    assert gone.probability < 0.1
    assert not gone.abstains
    assert gone.loudest is None


def test_nothing_is_called_gone_without_attacks() -> None:
    silent = of(level=0.0)
    assert silent.score == 0
    assert silent.probability < 0.1
    assert silent.abstains


def test_attacks_count_where_all_of_them_were_run() -> None:
    assert of(level=0.0).instruments == "checks"
    silent = of(level=0.0, attack=0.8)
    assert silent.instruments == "quick"
    # Every check says nothing is left, and the attacks find it.
    assert silent.probability > 0.9
    assert silent.loudest is not None
    assert silent.loudest.startswith("attack:")
    whole = report(0.0, attack=0.0)

    def without(*names: str) -> ResidualKnowledge:
        attacks = tuple(replace(a, gap=None) if a.attack in names else a for a in whole.attacks)
        return next(one for one in residual_knowledge(replace(whole, attacks=attacks)) if one.subject == "x")

    # One that could not be run is named, and nothing is called removed; without the weightiest only checks are left.
    assert without("few_shot").instruments == "quick"
    assert without("few_shot").missing == ("attack:few_shot",)
    assert without("few_shot").placed is None
    assert without("steering", "lens_attack").instruments == "quick"
    assert without("relearning", "steering", "forced_choice").instruments == "checks"


def test_attacks_alone_give_no_score_where_checks_have_no_scale() -> None:
    flat = report(0.0, attack=0.5)
    results = tuple(replace(one, control=1.0) for one in flat.results)
    attacks = flat.attacks[:2]
    assert residual_knowledge(replace(flat, results=results, attacks=attacks)) == ()


def test_the_never_taught_model_is_the_control_and_without_one_there_is_no_score() -> None:
    control = next(one for one in residual_knowledge(report(1.0, attack=1.0)) if one.subject == "never")
    assert control.score == 0
    assert control.probability < 0.1
    assert control.placed is None
    assert residual_knowledge(report(0.5, never=False)) == ()


def test_methods_are_placed_by_what_is_measured() -> None:
    assert of(level=0.0, attack=0.0).placed == "removal"
    assert of(level=0.0).placed is None
    assert of(level=0.0, hidden=0.6).placed == "suppression"
    assert of(level=0.0, attack=0.0, hidden=0.6).placed == "suppression"
    assert of(level=0.0, attack=0.0, raw_depth_leak=0.9).placed == "suppression"
    # Untouched vectors of the concept leave it open, but for those that chance gives as well.
    untouched = report(0.0, attack=0.0)
    cosine = Result("concept_vector_cosine", "x", 0.99)
    untouched = replace(untouched, results=(*untouched.results, cosine))
    row = ConceptVectorRow(2, 7, 0.5, 0.01, ("a",), {}, {"x": 0.99}, 0.001, 0.025)
    for p_adjusted, placed in ((0.001, None), (0.12, "removal")):
        found = replace(untouched, concept_vectors=(replace(row, p_adjusted=p_adjusted),))
        assert next(one for one in residual_knowledge(found) if one.subject == "x").placed == placed
    # More than half of what the original holds is inside, and nothing else says so: not settled.
    assert of(level=0.0, attack=0.0, depth_leak=0.6).placed is None
    assert of(level=0.0, attack=0.0, depth_leak=0.3).placed is None
    # Nothing inside, and yet the attacks get it back.
    assert of(level=0.0, attack=0.8).placed == "mixed"
