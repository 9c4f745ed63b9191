"""What the methods benchmark concludes from its records: failures count, seeds count once, the best settings win."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.methods import best, developed, evaluated
from benchmarks.methods_grid import GRID
from benchmarks.methods_page import estimates, interval, outcomes
from benchmarks.methods_runs import asked, given
from benchmarks.methods_shapes import SHAPES, Shape, asked_left, kept, left
from vestige.catalogue import METHODS


def record(
    method: str, concept: str = "a", seed: int = 0, *, error: str | None = None, **checks: float
) -> dict[str, Any]:
    results = {name: {"estimate": value} for name, value in checks.items()}
    run = {"method": method, "settings": [], "concept": concept, "seed": seed}
    return {"run": run, "results": results, "error": error, "inside": {}}


def probabilities(forget: float, paraphrase: float, retain: float) -> dict[str, float]:
    return {"forget_probability": forget, "paraphrase_probability": paraphrase, "retain_probability": retain}


def test_every_method_is_measured_and_every_shape_is_about_methods() -> None:
    assert set(GRID) == set(METHODS)
    assert all(set(shape.methods) <= set(METHODS) for shape in SHAPES)
    assert all(GRID.values())


def test_settings_are_chosen_on_other_concepts_than_methods_are_measured_on() -> None:
    assert not set(developed()) & set(evaluated())
    assert len(set(evaluated())) == 4


def test_what_is_asked_was_not_given() -> None:
    concept = evaluated()[0]
    facts, questions = given(concept), asked(concept)
    assert not {item.prompt for item in facts.retain} & {item.prompt for item in questions.retain}
    phrasings = {text for item in facts.forget for text in (item.prompt, item.paraphrased_prompt)}
    assert len(phrasings) == 2 * len(facts.forget)
    assert not phrasings & {item.paraphrased_prompt for item in questions.forget}
    assert [item.answer for item in facts.forget] == [item.answer for item in questions.forget]


def test_shares_are_of_the_original() -> None:
    records = {
        "original": record("original", **probabilities(0.8, 0.4, 0.5)),
        "npo": record("npo", **probabilities(0.4, 0.4, 0.25)),
    }
    assert left(records, "npo") == pytest.approx(0.75)
    assert asked_left(records, "npo") == pytest.approx(0.5)
    assert kept(records, "npo") == pytest.approx(0.5)


def test_a_failed_run_does_not_hold() -> None:
    shape = Shape(("npo",), "0", "forgets", lambda r: asked_left(r, "npo") < 0.5)
    runs = [record("original", seed=seed, **probabilities(1, 1, 1)) for seed in range(3)]
    runs += [record("npo", seed=0, **probabilities(0.1, 1, 1)), record("npo", seed=1, **probabilities(0.9, 1, 1))]
    runs += [record("npo", seed=2, error="diverged")]
    assert outcomes(shape, runs, ["npo"]) == {("a", 0): True, ("a", 1): False, ("a", 2): False}


def test_a_method_without_seeds_counts_once_and_stands_for_all_beside_one_with() -> None:
    alone = Shape(("leace",), "0", "forgets", lambda r: asked_left(r, "leace") < 0.5)
    beside = Shape(("leace", "npo"), "0", "keeps more", lambda r: kept(r, "npo") > kept(r, "leace"))
    runs = [record("original", seed=seed, **probabilities(1, 1, 1)) for seed in range(2)]
    runs += [record("leace", seed=0, **probabilities(0.1, 1, 0.5))]
    runs += [record("npo", seed=seed, **probabilities(0.1, 1, 0.4 + 0.2 * seed)) for seed in range(2)]
    assert outcomes(alone, runs, ["npo"]) == {("a", 0): True}
    assert outcomes(beside, runs, ["npo"]) == {("a", 0): False, ("a", 1): True}


def test_settings_that_failed_somewhere_are_never_the_best() -> None:
    one, two = [list(pairs) for pairs in GRID["npo"][:2]]

    def tried(settings: list[str], concept: str, score: float, error: str | None = None) -> dict[str, Any]:
        return {"run": {"settings": settings, "concept": concept}, "score": score, "error": error}

    first, second = developed()
    records = [tried(one, first, -0.2), tried(one, second, -0.1), tried(two, first, 0.9), tried(two, second, 0.0, "no")]
    assert best({"npo": records}) == {"npo": one}
    assert best({"npo": records[2:]}) == {}


def test_intervals_are_over_concepts() -> None:
    runs = [
        record("npo", concept, seed, lens_leak=value)
        for concept, seed, value in (("a", 0, 0.1), ("a", 1, 0.3), ("b", 0, 0.6))
    ]
    assert estimates(runs, "lens_leak") == pytest.approx([0.2, 0.6])
    assert interval(runs, "lens_leak") == "0.400 [0.000, 1.000]"
    assert interval(runs[:2], "lens_leak") == "0.200"
    assert interval(runs, "probe_leak") == ""
