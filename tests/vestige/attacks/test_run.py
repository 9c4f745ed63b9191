"""Comparing attacks between subjects: gaps beside the control, and what could not be run."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from hooked import VestigeError
from tests.tiny import tiny_model
from tests.vestige.facts import small_data
from vestige.attacks.attacked import Attacked
from vestige.attacks.catalogue import ATTACKS, Attack, chosen
from vestige.attacks.cost import Cost, cost_of
from vestige.attacks.run import Outcome, compared
from vestige.result import AttackResult, SubjectInfo

ATTACK = Attack("prefix", "nowhere", "prompts", False, "quick", 1, 0, {}, "begins the reply", "")
SUBJECTS = (
    SubjectInfo("original", "original"),
    SubjectInfo("npo", "unlearned"),
    SubjectInfo("never", "never"),
)


def around(mean: float) -> tuple[float, ...]:
    return tuple(mean + delta for delta in (-0.02, -0.01, 0.0, 0.01, 0.02))


def rows(
    attacked: Mapping[str, Attacked | str], subjects: tuple[SubjectInfo, ...] = SUBJECTS, never: float = 0.05
) -> dict[str, AttackResult]:
    plain = {"original": 0.9, "npo": 0.1, "never": never}
    found: dict[str, dict[str, Outcome]] = {
        s.name: {"plain": Attacked(around(plain[s.name])), "prefix": attacked[s.name]} for s in subjects
    }
    return {row.subject: row for row in compared(subjects, found, (ATTACK,), seed=0)}


def test_the_gap_has_the_value_of_its_definition() -> None:
    row = rows({"original": Attacked(around(0.8)), "npo": Attacked(around(0.45)), "never": Attacked(around(0.1))})[
        "npo"
    ]
    assert row.gap == pytest.approx(0.411765, abs=1e-6)
    assert row.matched == pytest.approx(0.5)
    assert row.gap is not None
    assert row.gap_low is not None
    assert row.gap_high is not None
    assert row.gap_low <= row.gap <= row.gap_high
    assert [row.estimate, row.plain, row.control] == pytest.approx([0.45, 0.1, 0.1])


def test_the_control_has_no_gap_and_an_attack_that_does_nothing_finds_the_original() -> None:
    found = rows({"original": Attacked(around(0.9)), "npo": Attacked(around(0.1)), "never": Attacked(around(0.05))})
    assert found["never"].gap == pytest.approx(0)
    assert found["original"].gap == pytest.approx(1)
    # An attack that leaves the original where it is has no scale of its own worth a number.
    assert found["npo"].matched is None


def test_other_measures_are_compared_on_their_own_scale() -> None:
    found = rows(
        {name: Attacked(around(p), "candidates") for name, p in (("original", 1.0), ("npo", 0.6), ("never", 0.2))}
    )
    assert found["npo"].gap == pytest.approx(0.5)
    assert found["npo"].plain is None
    assert found["npo"].measure == "candidates"


def test_without_a_model_that_never_knew_there_is_no_gap() -> None:
    found = rows({"original": Attacked(around(0.9)), "npo": Attacked(around(0.5))}, SUBJECTS[:2])
    assert found["npo"].gap is None
    assert "never learnt the facts" in found["npo"].note
    assert found["npo"].estimate == pytest.approx(0.5)


def test_a_scale_without_length_gives_no_gap() -> None:
    found = rows({name: Attacked(around(0.5)) for name in ("original", "npo", "never")}, never=0.9)
    assert found["npo"].gap is None
    assert "not identified" in found["npo"].note


def test_what_could_not_be_run_says_why() -> None:
    found = rows({"original": Attacked(around(0.9)), "npo": "no retain items", "never": Attacked(around(0.1))})
    assert found["npo"].estimate is None
    assert found["npo"].note == "no retain items"
    assert found["original"].gap is not None


def test_suites_hold_one_another_and_names_add_to_them() -> None:
    quick, standard, full = (chosen(suite) for suite in ("quick", "standard", "full"))
    assert {a.name for a in quick} <= {a.name for a in standard} <= {a.name for a in full} == set(ATTACKS)
    name = next(iter(ATTACKS))
    assert [one.name for one in chosen(None, [name])] == [name]
    assert len(chosen("quick", [name])) == len({a.name for a in quick} | {name})
    with pytest.raises(VestigeError, match="no suite 'slow'; there are quick, standard, full"):
        chosen("slow")
    with pytest.raises(VestigeError, match="no attack 'magic'; there are "):
        chosen(None, ["magic"])


def test_a_cost_is_said_in_seconds_or_minutes() -> None:
    assert "about 20 s: 200 passes over the forget items of 0.1 s" in str(Cost(2, 4, 200, 0.1))
    assert "about 5 min: 3,000 passes" in str(Cost(2, 4, 3000, 0.1))
    assert str(Cost(0, 1, 30, 0.1, checks=True)).startswith("all checks on 1 subjects, about 3 s")
    assert str(Cost(2, 4, 30, 0.1, checks=True)).startswith("2 attacks and all checks on 4 subjects")


def test_a_cost_counts_blocks_checks_and_maps() -> None:
    model, data = tiny_model("gpt2"), small_data(forget=5, retain=6, control=3)

    def passes(*names: str, **settings: bool) -> int:
        rows = chosen(None, names) if names else ()
        return cost_of(model, data, rows, subjects=2, batch_size=8, **settings).passes

    # Three blocks, each tried with four factors, and the states.
    assert passes("steering") == 2 * (1 + 4 * 3)
    # Six passes over 14 items in all, which are 2.8 times the forget items, and two for every block.
    assert passes(checks=True) == 2 * (17 + 2 * 3)
    assert passes(where=True) == 2 * 3 * 5 * 3
    assert passes("steering", checks=True, where=True) == passes("steering") + passes(checks=True) + passes(where=True)
