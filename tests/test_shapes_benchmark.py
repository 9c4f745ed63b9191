"""The shapes benchmark decides on numbers alone, and every shape can fail."""

from __future__ import annotations

from math import nan

import pytest

from benchmarks.shapes.claims import Shape, Term, above, alike, below, both, near, rising, some
from benchmarks.shapes.exceptions import REASONS
from benchmarks.shapes.page import KINDS, SHAPES, decided
from benchmarks.shapes.terms import agreement, faithful, faster, log_p, middle, robust, uds, value
from benchmarks.shapes.untested import UNTESTED


def number(x: float) -> Term:
    return Term("x", lambda n: x)


def test_comparisons_need_their_margins_and_fail_where_nothing_was_measured() -> None:
    low, high, missing = number(0.2), number(0.3), number(nan)
    assert rising(low, high, by=0.05).holds({})
    assert not rising(low, high, by=0.15).holds({})
    assert not rising(high, low, by=0.0).holds({})
    assert above(0.1, low, high).holds({})
    assert not above(0.25, low, high).holds({})
    assert below(0.4, low, high).holds({})
    assert not below(0.25, low, high).holds({})
    assert near(0.25, low, high, within=0.06).holds({})
    assert not near(0.25, low, high, within=0.04).holds({})
    assert alike(low, high, within=0.11).holds({})
    assert not alike(low, high, within=0.05).holds({})
    assert not both(above(0.1, low), above(0.25, low)).holds({})
    assert some("one", "ab", lambda s: above(0.25, high if s == "a" else low)).holds({})
    assert not some("one", "ab", lambda s: above(0.35, high)).holds({})
    for claim in (rising(low, missing, by=-9), above(-9, missing), below(9, missing), near(0, missing, within=9)):
        assert not claim.holds({})
    assert not alike(low, missing, within=9).holds({})


def test_terms_read_what_was_measured() -> None:
    numbers = {"a": {"depth_leak": 0.25, "forget_quality": 1e-3}, "b": {"depth_leak": 0.5}}
    assert uds("a").read(numbers) == 0.75
    assert log_p("a").read(numbers) == pytest.approx(-3)
    assert middle("m", [uds("a"), uds("b")]).read(numbers) == pytest.approx(0.625)
    missing = [value("c", "x"), uds("c"), log_p("b"), middle("m", [uds("a"), uds("c")])]
    assert all(term.read(numbers) != term.read(numbers) for term in missing)
    numbers["c"] = {"depth_leak": 0.9}
    assert agreement("rank", uds, lambda s: value(s, "depth_leak"), "abc").read(numbers) == pytest.approx(-1)


def test_faithfulness_is_asked_of_the_pool_alone_and_turned_where_high_means_forgotten() -> None:
    pool = {"knows": {"m": 0.9}, "knows, int4": {"m": 0.4}, "ignorant": {"m": 0.5}, "ignorant, int4": {"m": 0.1}}
    assert faithful("m").read({**pool, "original": {"m": -9.0}}) == pytest.approx(0.75)
    assert faithful("m", forgotten=True).read(pool) == pytest.approx(0.25)
    pool["ignorant"] = {}
    assert faithful("m").read(pool) != faithful("m").read(pool)


def test_robustness_compares_with_the_retrained_model() -> None:
    numbers = {
        "npo": {"m": 0.0},
        "npo, relearned": {"m": 0.4},
        "npo, rounded": {"m": 0.0},
        "retain": {"m": 0.0},
        "retrained, relearned": {"m": 0.1},
    }
    assert robust("m", ["npo"], "relearned").read(numbers) == pytest.approx(1 - 0.3 / 0.52)
    assert robust("m", ["npo"], "rounded").read(numbers) == pytest.approx(1)
    numbers["npo, rounded"]["m"] = 0.4
    assert robust("m", ["npo"], "rounded").read(numbers) == pytest.approx(1 - 0.4 / 0.42)


def test_a_speed_up_is_read_off_the_curves_and_not_off_the_rates() -> None:
    def curve(*scores: float) -> dict[str, float]:
        steps = {f"relearning:forget {k}": s for k, s in zip((0, 5, 10), scores, strict=True)}
        return {**steps, "relearning:forget at 0.01": 0.0, "relearning:retain 5": 9.0}

    numbers = {"original": curve(1, 1, 1), "never": curve(0, 0.1, 0.9), "npo": curve(0, 0.8, 1)}
    assert faster("npo").read(numbers) == pytest.approx(2)
    assert faster("never").read(numbers) == pytest.approx(1)


def test_every_shape_can_fail_and_no_two_are_the_same() -> None:
    assert not [shape.says for shape in SHAPES if shape.claim.holds({})]
    assert len({shape.says for shape in SHAPES}) == len(SHAPES)
    assert all(section and says and why for section, says, why in UNTESTED)
    assert not [start for start in REASONS if sum(s.says.startswith(start) for s in SHAPES) != 1]


def test_a_seed_decides_each_shape_by_itself() -> None:
    assert [row["holds"] for row in decided({7: {}})] == [{"7": False}] * len(SHAPES)
    assert set(KINDS) == {shape.kind for shape in SHAPES}
    claim = above(0.5, value("a", "x"))
    assert Shape("1", "specification", "s", claim).kind == "own"
    assert Shape("1", "paper", "s", claim).kind == "published"
    assert Shape("1", "paper", "s", claim, given=True).kind == "given"
