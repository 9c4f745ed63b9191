"""The suppression index by hand."""

import pytest

from tests.vestige.build import by_subject, evidence, reading
from vestige.checks.suppression import suppression_index

KNOWN, UNKNOWN = [0.9, 0.9, 0.8, 1.0], [0.1, 0.1, 0.0, 0.2]


def test_hidden_edited_and_control() -> None:
    found = by_subject(
        suppression_index(
            evidence(
                {
                    "original": reading(KNOWN),
                    "hidden": reading(UNKNOWN, raw=KNOWN),
                    "half": reading([0.5, 0.5, 0.4, 0.6], raw=KNOWN),
                    "edited": reading(UNKNOWN),
                    "never": reading(UNKNOWN),
                }
            )
        )
    )
    assert found["hidden"].estimate == pytest.approx(1.0)
    assert found["half"].estimate == pytest.approx(0.5)
    for name in ("original", "edited", "never"):
        assert found[name].estimate == pytest.approx(0.0)
    assert {(r.floor, r.control, r.n) for r in found.values()} == {(0.0, 0.0, 4)}


def test_a_view_below_the_control_is_not_clipped() -> None:
    given = evidence({"original": reading(KNOWN), "hidden": reading([0.0] * 4, raw=KNOWN), "never": reading(UNKNOWN)})
    assert by_subject(suppression_index(given))["hidden"].estimate == pytest.approx(0.9 / 0.8)


def test_no_control_is_a_reason() -> None:
    result = suppression_index(evidence({"original": reading(KNOWN), "hidden": reading(UNKNOWN, raw=KNOWN)}))[1]
    assert result.estimate is None
    assert "never learnt" in result.note


def test_an_original_that_does_not_know_is_not_identified() -> None:
    given = evidence({"original": reading(UNKNOWN), "hidden": reading(UNKNOWN, raw=KNOWN), "never": reading(UNKNOWN)})
    result = by_subject(suppression_index(given))["hidden"]
    assert result.estimate is None
    assert "not identified" in result.note


def test_one_item_is_a_reason() -> None:
    given = evidence({"original": reading([0.9]), "never": reading([0.1])})
    assert "at least 2 items" in suppression_index(given)[0].note
