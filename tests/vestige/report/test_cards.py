"""The cards and the chart: what all instruments find together stands beside single checks."""

from __future__ import annotations

from dataclasses import replace
from math import nan

from tests.vestige.report.sample import NAMES, sample_report
from vestige.report import render_html
from vestige.report.answer import answer
from vestige.report.attacks import worst_of
from vestige.report.cards import build_cards, build_glance
from vestige.report.explain import explain
from vestige.report.residual import of_control, probability
from vestige.report.text import number
from vestige.result import Result


def test_the_probability_is_the_last_column_beside_its_control() -> None:
    report = sample_report()
    said = {one.subject: probability(one) for one in report.residual}
    assert len(said) > 1
    glance = build_glance(report)
    assert glance.columns[-1].title == "Holds any of it"
    assert {len(lanes) for _, lanes in glance.rows} == {len(glance.columns)}
    drawn = {subject.name: lanes[-1] for subject, lanes in glance.rows}
    words = {name: lane.value.replace(">", "above ").replace("<", "below ") for name, lane in drawn.items()}
    assert words == {name: said.get(name, "–") for name in NAMES}
    assert drawn["original"].at is None
    marks = {name: lane.control for name, lane in drawn.items()}
    assert marks == {name: drawn["never"].at if name in said else None for name in NAMES}
    assert drawn["never"].at is not None
    unsure = {one.subject for one in report.residual if one.abstains}
    assert unsure == {name for name, lane in drawn.items() if lane.unsure}
    assert unsure == {name for name, lane in drawn.items() if "too unsure for a claim" in lane.spoken}
    page = render_html(report)
    assert page.count('class="point unsure"') == len(unsure) + 1
    cards = {card.subject.name: card for card in build_cards(report)}
    for one in report.residual:
        (row,) = [line for line in cards[one.subject].numbers if line.said.startswith("holds any")]
        assert (row.value, row.beside, row.control) == (
            said[one.subject],
            f"score {number(one.score)}{', abstains' if one.abstains else ''}",
            said["never"],
        )


def test_without_a_model_that_never_knew_the_retrained_one_is_the_control() -> None:
    report = sample_report()
    never = next(one for one in report.residual if one.subject == "never")
    kinds = {subject.kind: subject.name for subject in report.subjects}
    retrained = replace(never, subject=kinds["retrained"], probability=0.3)
    both = replace(report, residual=(*report.residual, retrained))
    alone = replace(report, residual=(*(one for one in report.residual if one is not never), retrained))
    assert of_control(both) == never
    assert of_control(alone) == retrained
    assert of_control(replace(report, residual=())) is None


def test_what_is_no_number_is_not_drawn() -> None:
    report = sample_report()
    broken = replace(report, residual=(replace(report.residual[0], probability=nan),))
    drawn = {subject.name: lanes[-1] for subject, lanes in build_glance(broken).rows}
    assert (drawn[report.residual[0].subject].value, drawn[report.residual[0].subject].at) == ("no number", None)


def test_without_a_scale_there_is_no_column_and_no_row() -> None:
    report = replace(sample_report(), residual=())
    assert "Holds any of it" not in [column.title for column in build_glance(report).columns]
    assert not [one for card in build_cards(report) for one in card.numbers if one.said.startswith("holds any")]


def test_the_attack_that_recovers_most_is_on_the_card_of_who_was_made_to_forget() -> None:
    report = sample_report()
    found = {
        card.subject.name: [one for one in card.numbers if one.said.startswith("recovered by")]
        for card in build_cards(report)
    }
    assert any(found.values())
    for subject in report.subjects:
        worst = worst_of([one for one in report.attacks if one.subject == subject.name])
        if subject.kind != "unlearned" or worst is None:
            assert not found[subject.name]
        else:
            (row,) = found[subject.name]
            assert row.value == number(worst.gap)
            assert worst.attack.replace("_", " ") in row.said
    assert render_html(report).count("recovered by ") >= sum(map(len, found.values()))


def test_vectors_that_chance_gives_as_well_are_no_key_number() -> None:
    report = sample_report()

    def shown(p_adjusted: float | None) -> set[str]:
        rows = tuple(replace(row, p_value=0.01, p_adjusted=p_adjusted, p_least=0.02) for row in report.concept_vectors)
        cards = build_cards(replace(report, concept_vectors=rows))
        page = render_html(replace(report, concept_vectors=rows))
        assert ("Chance gives such vectors too" in page) is (p_adjusted == 0.2)
        assert any("chance gives such vectors" in said for said in answer(replace(report, concept_vectors=rows))) is (
            p_adjusted == 0.2
        )
        return {one.said for card in cards for one in card.numbers}

    assert shown(None) - shown(0.2) == {explain("concept_vector_jaccard").plain}
    assert shown(0.04) == shown(None)


def test_the_opening_speaks_of_the_vectors_that_the_verdict_rests_on() -> None:
    report = sample_report()
    name = NAMES[1]
    row = replace(report.concept_vectors[0], p_value=0.001, p_least=0.02)

    def said(telling: float, rest: float) -> str:
        rows = [replace(row, p_adjusted=0.001, cosine={name: telling})]
        rows += [replace(row, neuron=n, p_adjusted=0.9, cosine={name: rest}) for n in range(9)]
        result = Result("concept_vector_cosine", name, (telling + 9 * rest) / 10)
        alone = tuple(s for s in report.subjects if s.name == name)
        changed = replace(report, subjects=alone, results=(result,), concept_vectors=tuple(rows), residual=())
        (weights,) = [one for one in answer(changed) if one.startswith("In the weights")]
        return weights

    assert said(0.99, 0.1).endswith("(cosine at least 0.95) in it.")
    assert said(0.1, 0.99).endswith("(cosine at least 0.95) in no model.")
