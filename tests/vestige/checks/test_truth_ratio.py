"""Truth ratio and forget quality of whole splits."""

import math

import pytest

from tests.vestige.build import by_subject, evidence, reading, score, split
from vestige.checks.truth_ratio import forget_quality, item_ratios, truth_ratio
from vestige.reading import Reading, SplitReading

E = math.e


def ratios(*values: float) -> Reading:
    """A subject whose items have these truth ratios."""
    return reading(split([0.1] * len(values), wrong=[[0.1 * value] for value in values]))


def test_the_ratio_by_hand() -> None:
    # Wrong answers with losses 1 and 2 against a right one of 1.5: geometric mean 1. One of loss 2: exp(-0.5).
    one = split([E**-9, E**-9], bases=[E**-1.5, E**-1.5], wrong=[[E**-1, E**-2], [E**-2]])
    assert item_ratios(one) == pytest.approx([1.0, math.exp(-0.5)])
    assert truth_ratio(evidence({"original": reading(one)}))[0].estimate == pytest.approx((1 + math.exp(-0.5)) / 2)


def test_ratios_above_and_below_1_score_alike() -> None:
    result = truth_ratio(evidence({"original": ratios(4.0, 0.25)}))[0]
    assert result.per_item == pytest.approx((0.25, 0.25))
    assert result.higher_is == "forgotten"


def test_the_base_is_the_paraphrase_where_there_is_one() -> None:
    assert item_ratios(split([0.5], bases=[0.25], wrong=[[0.25]])) == pytest.approx([1.0])


def test_items_without_wrong_answers_do_not_take_part() -> None:
    assert item_ratios(split([0.1, 0.1], wrong=[[], [0.2]])) == pytest.approx([2.0])
    result = truth_ratio(evidence({"original": reading([0.5, 0.5])}))[0]
    assert result.estimate is None
    assert "no item has wrong answers" in result.note


def test_impossible_answers() -> None:
    none_right: SplitReading = split([0.0, 0.5, 0.0], wrong=[[0.5], [0.0], [0.0]])
    # Wrong wins beyond any float; right wins beyond any float; 0/0 is left out.
    assert item_ratios(none_right) == [1e300, 1e-300]
    assert truth_ratio(evidence({"original": reading(none_right)}))[0].estimate == pytest.approx(0, abs=1e-200)


def test_forget_quality_by_hand() -> None:
    low, high = (0.1, 0.2, 0.3, 0.4), (1.1, 1.2, 1.3, 1.4)
    found = by_subject(
        forget_quality(
            evidence(
                {"original": ratios(*low), "edited": ratios(*high), "retain": ratios(*high), "never": ratios(*high)}
            )
        )
    )
    # No overlap of 4 and 4: 2 / C(8, 4).
    assert found["original"].estimate == pytest.approx(2 / 70)
    assert found["original"].floor == pytest.approx(2 / 70)
    assert "D = 1.00, against 'retain'" in found["original"].note
    assert "cannot be ranked" in found["original"].note
    assert found["edited"].estimate == pytest.approx(1.0)
    assert found["edited"].n == 4
    assert "log10 p = 0.00" in found["edited"].note or "log10 p = -0.00" in found["edited"].note
    assert "against 'never'" in found["retain"].note
    assert "against 'retain'" in found["never"].note
    assert {r.control for r in found.values()} == {found["never"].estimate}


def test_the_never_taught_model_is_the_reference_where_there_is_no_retrained_one() -> None:
    found = by_subject(forget_quality(evidence({"original": ratios(*range(1, 6)), "never": ratios(*range(1, 6))})))
    assert "against 'never'" in found["original"].note
    assert found["never"].estimate is None
    assert "no second model" in found["never"].note


def test_no_reference_is_a_reason() -> None:
    result = forget_quality(evidence({"original": ratios(1, 2, 3, 4)}))[0]
    assert result.estimate is None
    assert "no second model" in result.note


@pytest.mark.parametrize("n", [1, 2, 3])
def test_too_few_items_are_a_reason_and_no_error(n: int) -> None:
    values = [0.5] * n
    result = forget_quality(evidence({"original": ratios(*values), "retain": ratios(*values)}))[0]
    assert result.estimate is None
    assert "at least 4" in result.note


def test_no_wrong_answers_is_a_reason() -> None:
    result = forget_quality(evidence({"original": reading([0.5]), "retain": reading([0.5])}))[0]
    assert (result.estimate, result.note) == (
        None,
        "no item has wrong answers to compare with (column perturbed_answer)",
    )


def test_many_items_keep_a_finite_log() -> None:
    low, high = [0.1 + i / 1e4 for i in range(400)], [2 + i / 1e4 for i in range(400)]
    result = forget_quality(evidence({"original": ratios(*low), "retain": ratios(*high)}))[0]
    assert result.estimate == pytest.approx(0, abs=1e-200)
    assert "log10 p = -238.97, D = 1.00" in result.note


def test_score_of_several_tokens_counts_the_mean() -> None:
    assert score(0.25, n=7).nll == pytest.approx(-math.log(0.25))
