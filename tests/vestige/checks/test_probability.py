"""Forget and retain probability: means, floors, controls, reasons."""

import pytest

from hooked import Item, UnlearnData
from tests.vestige.build import by_subject, evidence, reading, split
from vestige.checks.probability import forget_probability, paraphrase_probability, retain_probability
from vestige.reading import Score


def test_the_mean_over_items_with_interval_and_control() -> None:
    found = by_subject(
        forget_probability(
            evidence({"original": reading([0.9, 0.7]), "edited": reading([0.5, 0.1]), "never": reading([0.1, 0.2])})
        )
    )
    assert found["original"].estimate == pytest.approx(0.8)
    assert found["edited"].estimate == pytest.approx(0.3)
    assert found["edited"].per_item == pytest.approx((0.5, 0.1))
    assert found["edited"].low == pytest.approx(0.1)
    assert found["edited"].high == pytest.approx(0.5)
    assert [r.control for r in found.values()] == pytest.approx([0.15] * 3)
    assert {(r.n, r.higher_is, r.note) for r in found.values()} == {(2, "leaky", "")}


def test_the_probability_of_an_answer_is_the_geometric_mean_of_its_tokens() -> None:
    long = reading([0.5])
    answer = Score((-1.0, -3.0), (0, 0), (0, 0))
    one = reading(split([0.5]))
    object.__setattr__(one.forget, "answers", (answer,))
    assert by_subject(forget_probability(evidence({"original": long, "edited": one})))[
        "edited"
    ].estimate == pytest.approx(0.1353352832366127)


def test_the_retrained_model_is_the_control_where_there_is_no_never_taught_one() -> None:
    both = {"original": reading([0.9]), "retain": reading([0.2]), "never": reading([0.1])}
    assert by_subject(forget_probability(evidence(both)))["original"].control == pytest.approx(0.1)
    del both["never"]
    assert by_subject(forget_probability(evidence(both)))["original"].control == pytest.approx(0.2)
    del both["retain"]
    assert by_subject(forget_probability(evidence(both)))["original"].control is None


@pytest.mark.parametrize(("floors", "expected"), [((0.1, 0.3), 0.2), ((0.1, None), None), ((None, None), None)])
def test_the_floor_is_given_where_every_item_states_one(
    floors: tuple[float | None, ...], expected: float | None
) -> None:
    items = tuple(Item(f"q{i}", "a", floor=f) for i, f in enumerate(floors))
    kept = tuple(Item(f"r{i}", "a", floor=f) for i, f in enumerate(floors))
    given = evidence({"original": reading([0.5, 0.5], retain=split([0.5, 0.5]))}, data=UnlearnData(items, kept))
    for check in (forget_probability, retain_probability):
        assert check(given)[0].floor == (None if expected is None else pytest.approx(expected))


def test_one_item_has_no_interval_and_says_so() -> None:
    result = forget_probability(evidence({"original": reading([0.5])}))[0]
    assert (result.estimate, result.low, result.high) == (0.5, None, None)
    assert "at least 2 items" in result.note


def test_an_impossible_answer_scores_0() -> None:
    assert forget_probability(evidence({"original": reading([0.0, 0.0])}))[0].estimate == 0.0


def test_without_retain_items_there_is_a_reason_and_no_number() -> None:
    result = retain_probability(evidence({"original": reading([0.5])}))[0]
    assert result.estimate is None
    assert result.note == "no retain items were given"


def test_retain_probability_reads_the_retain_split() -> None:
    result = retain_probability(evidence({"original": reading([0.5], retain=split([0.25, 0.75]))}))[0]
    assert (result.estimate, result.n, result.higher_is) == (pytest.approx(0.5), 2, "useful")


def test_reworded_questions_count_only_where_there_are_any() -> None:
    items = (Item("q0", "a", paraphrased_prompt="p0", floor=0.2), Item("q1", "a", floor=0.6), Item("q2", "a"))
    given = evidence(
        {
            "original": reading([0.9, 0.9, 0.9], reworded=[0.7]),
            "never": reading([0.1, 0.1, 0.1], reworded=[0.3]),
        },
        data=UnlearnData(items),
    )
    found = by_subject(paraphrase_probability(given))
    assert (found["original"].estimate, found["original"].n) == (pytest.approx(0.7), 1)
    assert found["original"].control == pytest.approx(0.3)
    # Of the items that were asked in other words alone.
    assert found["original"].floor == pytest.approx(0.2)


def test_no_reworded_question_is_a_reason() -> None:
    result = paraphrase_probability(evidence({"original": reading([0.9])}))[0]
    assert result.estimate is None
    assert "paraphrased question" in result.note
