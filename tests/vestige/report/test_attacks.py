"""The section on attacks: gaps, the worst of each subject, curves, and what could not be run."""

from __future__ import annotations

from dataclasses import replace

from tests.vestige.report.sample import NAMES, sample_report
from vestige.report import render_html
from vestige.report.attacks import HEIGHT, WIDTH, build_attacks, worst_of
from vestige.report.normal import normalised
from vestige.result import AttackResult


def test_without_attacks_there_is_no_section() -> None:
    report = replace(sample_report(), attacks=())
    assert build_attacks(report) is None
    assert 'id="attacks"' not in render_html(report)


def test_every_attack_is_a_row_and_every_subject_a_cell() -> None:
    found = build_attacks(sample_report())
    assert found is not None
    assert [row.name for row in found.rows] == ["affirmative_prefix", "relearn"]
    assert all(len(row.cells) == len(NAMES) for row in found.rows)
    original, *_, never = found.rows[0].cells
    assert (original.step, never.step) == (10, 0)
    assert found.rows[1].upper_bound


def test_what_could_not_be_run_says_why_and_runs_nothing() -> None:
    report = sample_report()
    missing = build_attacks(report)
    assert missing is not None
    assert missing.rows[0].cells[NAMES.index("gradient_ascent")].missing.startswith("not run: no reply to begin")
    page = render_html(report)
    assert "<script>" not in page
    assert "no reply to begin" in page


def test_notes_name_the_subjects_that_they_are_about() -> None:
    report = sample_report()
    attacks = tuple(
        AttackResult("lens", name, 0.5, note="of all" if name == "never" else "of all but one") for name in NAMES
    )
    found = build_attacks(replace(report, attacks=(*attacks, *(AttackResult("x", n, 0.5, note="same") for n in NAMES))))
    assert found is not None
    others = ", ".join(name for name in NAMES if name != "never")
    assert found.notes == ((f"lens ({others})", "of all but one"), ("lens (never)", "of all"), ("x", "same"))


def test_the_worst_attack_is_clear_and_preferably_not_shown_the_answers() -> None:
    def result(name: str, gap: float, low: float, *, shown: bool = False) -> AttackResult:
        return AttackResult(name, "npo", 0.5, gap=gap, gap_low=low, gap_high=gap, uses_target=shown)

    mild, loud, unclear = result("mild", 0.2, 0.1), result("loud", 0.9, 0.8, shown=True), result("unclear", 0.7, -0.1)
    assert worst_of([mild, loud, unclear]) == mild
    assert worst_of([loud, unclear]) == loud
    assert worst_of([unclear]) is None


def test_an_attack_that_was_shown_the_answers_is_named_where_it_recovers_more() -> None:
    def worst(shown: float, *, low: float = 0.1) -> str:
        mild = AttackResult("mild", "npo", 0.5, gap=0.3, gap_low=0.2, gap_high=0.4)
        loud = AttackResult("loud", "npo", 0.5, gap=shown, gap_low=low, gap_high=shown, uses_target=True)
        report = sample_report()
        names = {s.kind: s.name for s in report.subjects}
        attacks = tuple(replace(one, subject=names["unlearned"]) for one in (mild, loud))
        page = render_html(replace(report, attacks=attacks))
        (line,) = [line for line in page.splitlines() if "most is recovered by" in line]
        assert "<strong>mild</strong>" in line
        return line

    assert "shown the answers, <strong>loud</strong> recovers 0.90" in worst(0.9)
    assert "loud" not in worst(0.25)
    assert "loud" not in worst(0.9, low=-0.1)


def test_curves_fill_the_chart_and_name_their_ends() -> None:
    found = build_attacks(sample_report())
    assert found is not None
    (chart,) = found.charts
    assert (chart.attack, chart.first, chart.last) == ("relearn", "0", "50")
    places = [tuple(map(float, pair.split(","))) for pair in chart.lines[0].points.split()]
    assert [x for x, _ in places] == [0, WIDTH / 2, WIDTH]
    assert all(0 <= y <= HEIGHT for _, y in places)
    assert places[0][1] > places[-1][1]


def test_numbers_that_are_not_finite_are_said() -> None:
    report = sample_report()
    broken = replace(report.attacks[0], estimate=float("nan"), gap=float("inf"))
    (first, *_) = normalised(replace(report, attacks=(broken, *report.attacks[1:]))).attacks
    assert first.estimate is None
    assert first.gap is None
    assert "estimate was not finite" in first.note


def test_shares_have_two_places_and_no_negative_zero() -> None:
    report = sample_report()
    first = replace(report.attacks[0], gap=-0.0004, gap_low=-0.131, gap_high=0.00007)
    found = build_attacks(replace(report, attacks=(first, *report.attacks[1:])))
    assert found is not None
    assert (found.rows[0].cells[0].gap, found.rows[0].cells[0].interval) == ("0.00", "[−0.13, 0.00]")


def test_a_gap_beyond_the_scale_is_said_in_words_and_kept_as_a_number() -> None:
    report = sample_report()
    attacks = tuple(
        replace(a, gap=1.22, gap_low=1.1, gap_high=1.3) if a.subject == "npo" and not a.uses_target else a
        for a in report.attacks
    )
    page = render_html(replace(report, attacks=attacks))
    assert "at least all of it (1.22)" in page
    assert "<b>1.22</b>" in page
    assert "above 1, more than the original" in page
