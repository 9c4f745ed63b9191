"""State similarities on planted states: kept, turned, rebuilt, and what cannot be compared."""

from __future__ import annotations

import numpy as np
import pytest

from tests.vestige.build import by_subject, evidence, reading, split
from vestige.checks.representation import cka_erasure, state_similarity
from vestige.evidence import Evidence
from vestige.result import Result

N, LAYERS, D = 30, 3, 12


def planted(**subjects: tuple[float, float]) -> Evidence:
    """Subjects whose forget and retain states are the original's with these shares of another run's mixed in; `retain`
    is that run."""
    rng = np.random.default_rng(0)
    mine, theirs = (rng.normal(size=(2, N, LAYERS, D)).astype(np.float32) for _ in range(2))
    made = {}
    for name, shares in {"original": (0.0, 0.0), **subjects}.items():
        forget, retain = ((1 - share) * mine[k] + share * theirs[k] for k, share in enumerate(shares))
        made[name] = reading(split([0.5] * N, hidden=forget), retain=split([0.5] * N, hidden=retain))
    return evidence(made)


def of(results: list[Result], check: str, name: str) -> Result:
    return by_subject(results, check)[name]


def test_forgetting_and_damage_are_told_apart() -> None:
    found = state_similarity(planted(aimed=(1.0, 0.0), broken=(1.0, 1.0), hidden=(0.0, 0.0), never=(1.0, 1.0)))
    for name, forget, retain in (("original", 1, 1), ("hidden", 1, 1), ("aimed", 0, 1), ("broken", 0, 0)):
        for check, wanted in (("forget_state_similarity", forget), ("retain_state_similarity", retain)):
            result = of(found, check, name)
            assert result.estimate == pytest.approx(wanted, abs=0.1)
            assert result.floor == pytest.approx(0, abs=0.05)
            assert result.control == pytest.approx(0, abs=0.1)
            assert (result.n, len(result.per_layer or ())) == (N, LAYERS)
            assert (result.low or 0) <= (result.estimate or 0) <= (result.high or 0)
    assert of(found, "forget_state_similarity", "original").higher_is == "leaky"
    assert of(found, "retain_state_similarity", "original").higher_is == "useful"


def test_the_biased_form_is_far_from_its_floor_and_said_beside_it() -> None:
    note = of(state_similarity(planted(aimed=(1.0, 0.0))), "forget_state_similarity", "aimed").note
    biased, floor = (float(part.split()[-1]) for part in note.split(","))
    # d / (n - 1 + d), which any two sets of rows of this size reach.
    assert biased == pytest.approx(D / (N - 1 + D), abs=0.08)
    assert floor == pytest.approx(D / (N - 1 + D), abs=0.08)


def test_erasure_runs_from_the_original_to_the_retrained_model() -> None:
    found = by_subject(cka_erasure(planted(half=(0.5, 0.5), retain=(1.0, 1.0))))
    assert found["original"].estimate == pytest.approx(0, abs=1e-6)
    assert found["retain"].estimate == pytest.approx(1, abs=1e-6)
    assert 0.2 < (found["half"].estimate or 0) < 0.8
    assert found["half"].per_layer is not None
    assert (found["half"].low or 0) < (found["half"].estimate or 0) < (found["half"].high or 0)
    assert "by construction" in found["retain"].note
    assert {r.higher_is for r in found.values()} == {"forgotten"}


def test_without_a_reference_erasure_has_no_scale() -> None:
    (result,) = cka_erasure(planted())
    assert result.estimate is None
    assert "needs a model that never learnt the facts" in result.note


def test_too_few_items_missing_splits_and_other_shapes_are_reasons() -> None:
    rng = np.random.default_rng(0)
    few = evidence(
        {name: reading(split([0.5] * 4, hidden=rng.normal(size=(4, 2, 3)))) for name in ("original", "never")}
    )
    assert "needs at least 5 forget items, got 4" in of(state_similarity(few), "forget_state_similarity", "never").note
    assert "needs at least 5 forget items" in by_subject(cka_erasure(few))["never"].note
    assert of(state_similarity(few), "retain_state_similarity", "never").note == "no retain items were given"
    shapes = {"original": 2, "short": 1, "never": 2}
    other = evidence({n: reading(split([0.5] * 6, hidden=rng.normal(size=(6, k, 3)))) for n, k in shapes.items()})
    for results in (state_similarity(other), cka_erasure(other)):
        notes = [r.note for r in results if r.subject == "short" and r.check != "retain_state_similarity"]
        assert "it has 1 blocks and is compared with 2" in notes[0]


def test_states_that_are_all_the_same_have_no_similarity() -> None:
    given = evidence({"original": reading([0.5] * 6)})
    assert "the states of different prompts are the same" in state_similarity(given)[0].note
