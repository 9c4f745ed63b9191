"""The page as text: self-contained, escaped, complete, and honest about what is missing."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from itertools import pairwise

import pytest

from vestige.report import render_html
from vestige.report.answer import answer
from vestige.report.explain import GROUPS, KNOWN, explain, in_reading_order
from vestige.report.layers import STEPS, build_heat_maps
from vestige.report.table import build_table
from vestige.result import AuditReport, ResidualKnowledge, Result, SubjectInfo

from .sample import HOSTILE, LONG_TOKEN, NAMES, SUBJECTS, VALUES, sample_report

_VOID = {"meta", "link", "br", "wbr", "col", "line", "circle", "path", "img", "input", "hr"}


class _Page(HTMLParser):
    """Collect tags, attributes and text, and check that every tag is closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in _VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self._open or self._open[-1] != "style":
            self.text += data

    def attributes(self, name: str) -> list[str]:
        return [value or "" for _, attrs in self.tags for key, value in attrs.items() if key == name]


@pytest.fixture(scope="module")
def page() -> _Page:
    return _Page(render_html(sample_report()))


def _small(*results: Result, **extra: object) -> AuditReport:
    subjects = (SubjectInfo("original", "original"), SubjectInfo("method", "unlearned", "removal"))
    return replace(AuditReport({}, subjects, results), **extra)  # type: ignore[arg-type]


def test_nothing_is_loaded_and_nothing_runs(page: _Page) -> None:
    assert not {tag for tag, _ in page.tags} & {"script", "img", "iframe", "object", "embed", "form", "audio", "video"}
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    beside = [value for value in page.attributes("href") if not value.startswith("#") and value != "data:,"]
    assert beside == ["latents/latents-1.html"]
    assert not page.attributes("src")
    style = files("vestige.report").joinpath("report.css").read_text()
    assert not re.search(r"url\(|@import|@font-face|https?:", style)


def test_the_content_policy_forbids_loading(page: _Page) -> None:
    policy = [attrs["content"] for tag, attrs in page.tags if tag == "meta" and "http-equiv" in attrs]
    assert len(policy) == 1
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in (policy[0] or "")


def test_model_output_is_shown_as_text(page: _Page) -> None:
    shown = HOSTILE.replace("\u202e", "⟨U+202E⟩").replace("\u202c", "⟨U+202C⟩")
    shown = shown.replace("\x00", "⟨U+0000⟩").replace("\x1b", "⟨U+001B⟩")
    assert page.text.count(shown) >= len(NAMES) - 2
    assert LONG_TOKEN in page.text
    source = render_html(sample_report())
    assert "<script" not in source
    assert "<img" not in source
    assert not re.search("[\u202a-\u202e\u2066-\u2069\x00\x1b\ud800-\udfff]", source)


def test_every_text_of_a_report_is_escaped() -> None:
    evil = "<i x='\">\u202e&"
    subjects = (SubjectInfo(evil, "unlearned", evil, evil),)
    result = Result(evil, evil, 0.5, note=evil, per_layer=(0.1, 0.2))
    report = AuditReport(
        {evil: evil, "concepts": [evil, evil]}, subjects, (result,), verdicts={evil: evil, "overall": evil}
    )
    source = render_html(report)
    assert "<i x" not in source
    assert "\u202e" not in source
    parsed = _Page(source)
    assert not [attrs for _, attrs in parsed.tags if "x" in attrs and attrs["x"] == '">']


def test_the_sections_come_in_reading_order(page: _Page) -> None:
    ids = [value for value in page.attributes("id") if not re.search(r"\d|title", value)]
    answers, inside = ["glance", "verdicts", "numbers", "attacks"], ["layers", "vectors", "latents"]
    assert ids == [*answers, *inside, "examples", "guide", "provenance"]
    headings = [int(tag[1]) for tag, _ in page.tags if re.fullmatch("h[1-6]", tag)]
    assert headings.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(headings))


def test_ids_are_unique_and_links_lead_somewhere(page: _Page) -> None:
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    targets = [value[1:] for value in page.attributes("href") if value.startswith("#")]
    assert targets
    assert set(targets) <= set(ids)
    assert set(page.attributes("aria-labelledby")) <= set(ids)


def test_tables_have_captions_and_scoped_headers(page: _Page) -> None:
    tags = [tag for tag, _ in page.tags]
    assert tags.count("caption") == tags.count("table")
    assert all("scope" in attrs for tag, attrs in page.tags if tag == "th")


def test_every_subject_check_and_verdict_is_there(page: _Page) -> None:
    report = sample_report()
    for name in NAMES:
        assert name in page.text
        assert report.verdicts[name] in page.text
    for check in VALUES:
        assert KNOWN[check].title in page.text
        assert KNOWN[check].limits in page.text
    assert "After being made to forget quorandor, what does it still know, and where?" in page.text


def test_the_table_never_lacks_floor_and_control() -> None:
    table = build_table(sample_report())
    assert [group for group, _ in table.groups] == list(GROUPS[:-1])
    rows = {row.explanation.check: row for _, rows in table.groups for row in rows}
    assert rows["forget_probability"].floor == "0.042"
    assert rows["forget_probability"].control == "0.044"
    assert rows["model_utility"].floor == "–"
    assert rows["lens_leak"].floor == "in cells"
    assert len(rows["truth_ratio"].cells) == len(NAMES)


def test_the_residual_knowledge_score_has_a_row_with_a_cell_for_every_subject() -> None:
    report = sample_report()
    cells = dict(zip(NAMES, build_table(report).score, strict=True))
    assert {one.subject for one in report.residual} == {name for name, cell in cells.items() if cell.interval}
    for one in report.residual:
        assert float(cells[one.subject].value) == one.score
        assert cells[one.subject].interval.startswith("holds any: ")
        assert (cells[one.subject].aside == "abstains") == one.abstains
    assert "Residual knowledge score" in _Page(render_html(report)).text
    without = replace(report, residual=())
    assert build_table(without).score == ()
    assert "Residual knowledge score" not in _Page(render_html(without)).text


def test_a_remark_is_given_once_and_pointed_at() -> None:
    def remarks(*notes: str) -> tuple[object, ...]:
        names = ("original", "method")
        results = [Result("degeneracy", name, 0.1, note=note) for name, note in zip(names, notes, strict=True)]
        table = build_table(_small(*results))
        row = table.groups[0][1][0]
        return [text for _, text in table.remarks], row.remark, [cell.remark for cell in row.cells]

    assert remarks("", "collapsed") == (["collapsed"], None, [None, 1])
    assert remarks("one", "two") == (["one", "two"], None, [1, 2])
    assert remarks("of all", "of all") == (["of all"], 1, [None, None])


def test_floors_that_differ_between_subjects_stand_in_their_cells() -> None:
    results = [Result("x", "original", 0.4, floor=0.1, n=3), Result("x", "method", 0.4, floor=0.2, n=3)]
    row = build_table(_small(*results)).groups[0][1][0]
    assert row.floor == "in cells"
    assert [cell.aside for cell in row.cells] == ["chance 0.10", "chance 0.20"]


def test_what_could_not_be_measured_says_why() -> None:
    none = Result("forget_quality", "method", None, note="no retrained model was given")
    some = Result("forget_quality", "original", 0.5)
    assert "not measured: no retrained model was given" in _Page(render_html(_small(some, none))).text
    assert "not measured: no retrained model was given" in _Page(render_html(_small(none))).text
    missing = render_html(_small(Result("forget_probability", "original", 0.9)))
    assert "not measured: this check was not run on this subject" in missing
    assert "not measured: no reason was given" in render_html(_small(Result("lens_leak", "method", None)))


def test_a_value_that_is_not_finite_is_never_shown() -> None:
    source = render_html(_small(Result("forget_probability", "method", float("nan"), low=float("inf"))))
    assert "not measured: estimate was not finite; low was not finite" in source
    assert not re.search(r"\b(nan|inf)\b", source)


def test_an_unknown_check_is_rendered_like_the_others() -> None:
    result = Result("new_leak", "method", 0.31, per_layer=(0.1, 0.31), higher_is="leaky")
    text = _Page(render_html(_small(result))).text
    assert text.count("New leak") >= 3
    assert "Other checks" in text
    assert explain("").title == "Unnamed check"


def test_an_empty_audit_still_makes_a_page() -> None:
    text = _Page(render_html(_small())).text
    assert "After being made to forget the forget set" in text
    assert "not recorded" in text


def test_explanations_are_in_order_and_complete() -> None:
    assert set(KNOWN) == set(VALUES)
    assert [e.check for e in in_reading_order(["zeta", "probe_leak", "alpha", "forget_rouge", "probe_leak"])] == [
        "forget_rouge",
        "probe_leak",
        "zeta",
        "alpha",
    ]
    for entry in KNOWN.values():
        assert all((entry.title, entry.plain, entry.measures, entry.chance, entry.control, entry.limits))


def test_the_opening_is_the_audits_own_when_it_gives_one() -> None:
    report = sample_report()
    assert answer(replace(report, verdicts={**report.verdicts, "overall": "In short: no."})) == ["In short: no."]
    read_out = " ".join(answer(report))
    assert "with probability 0.97 (a model that never learned them scores 0.044; chance is 0.042)" in read_out
    assert "4.0×10⁻⁴ (gradient_ascent) to 0.41 (ablate_vectors)" in read_out
    assert "in all 5, most clearly in key_space_detection (0.97, strongest after layer 5)" in read_out
    assert "in 4 of the 5: neuron_adjust, key_space_detection, gradient_ascent and npo" in read_out


def test_the_opening_ends_with_the_largest_score_of_those_made_to_forget() -> None:
    report = sample_report()
    name, other = NAMES[1:3]
    loud = ResidualKnowledge(name, "quick", 0.62, 0.997, False)
    quiet = ResidualKnowledge(other, "checks", 0.3, 0.4, True)
    never = ResidualKnowledge(NAMES[-1], "quick", 0.9, 0.99, False)

    def last(*residual: ResidualKnowledge) -> str:
        return answer(replace(report, residual=residual))[-1]

    assert last(quiet, loud, never) == (
        f"All checks and attacks together give {name} the largest score, 0.62, from 0 (never knew) to 1 (before "
        "forgetting), and above 99% that it still holds any of the facts."
    )
    assert last(quiet, never) == (
        f"All checks together give {other} a score of 0.30, from 0 (never knew) to 1 (before forgetting), and 40% that "
        "it still holds any of the facts, too unsure for a claim."
    )
    assert "together" not in last(never)
    alone = replace(report, subjects=(SUBJECTS[0], SUBJECTS[1]), residual=(loud,))
    assert "together give it a score of 0.62," in answer(alone)[-1]


def test_colours_start_at_chance_and_reach_one() -> None:
    lens, probe = build_heat_maps(sample_report())
    assert lens.scale.labels() == ("0.048 (lowest chance) or less", "1")
    assert lens.has_floors
    assert not probe.has_floors
    assert probe.scale.labels() == ("0.50 (chance) or less", "1")
    assert [probe.scale.step(value) for value in (0.2, 0.5, 0.75, 1.0, None)] == [0, 0, 5, STEPS - 1, None]
    # The control row would repeat `never`, so it is left out.
    assert [row.name for row in lens.rows] == list(NAMES)


def test_layer_controls_are_shown_once_or_beside_each_value() -> None:
    def maps(*controls: tuple[float, ...]) -> list[str]:
        names = ("original", "method")
        rows = [
            Result("lens_leak", name, 0.5, per_layer=(0.4, 0.5), per_layer_control=control)
            for name, control in zip(names, controls, strict=True)
        ]
        (heat,) = build_heat_maps(_small(*rows))
        return [row.name for row in heat.rows] + (["beside"] if heat.has_controls else [])

    assert maps((0.1, 0.2), (0.1, 0.2)) == ["original", "method", "control"]
    assert maps((0.1, 0.2), (0.1, 0.3)) == ["original", "method", "beside"]


def test_layers_in_other_units_span_their_own_range() -> None:
    (heat,) = build_heat_maps(_small(Result("rank", "method", 3.0, per_layer=(-2.0, 8.0))))
    assert heat.scale.labels() == ("−2.00", "8.00")
    (flat,) = build_heat_maps(_small(Result("rank", "method", 3.0, per_layer=(7.0, 7.0))))
    assert flat.rows[1].step == (0, 0)


def _luminance(colour: str) -> float:
    full = colour if len(colour) == 7 else "#" + "".join(2 * digit for digit in colour[1:])
    parts = [int(full[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def _contrast(one: str, other: str) -> float:
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


_PAIRS = (
    *((text, ground) for text in ("ink", "soft", "accent") for ground in ("page", "sheet", "faint")),
    ("accent", "accent-soft"),
    ("lost", "lost-bg"),
    ("new", "new-bg"),
    *((f"t{step}", f"h{step}") for step in range(STEPS)),
)


@pytest.mark.parametrize("scheme", [0, 1, 2], ids=["light", "dark", "print"])
def test_every_text_has_contrast(scheme: int) -> None:
    style = files("vestige.report").joinpath("report.css").read_text()
    blocks = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]+);", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    assert len(blocks) == 3
    colours = blocks[scheme]
    assert {
        pair: round(_contrast(colours[pair[0]], colours[pair[1]]), 2)
        for pair in _PAIRS
        if _contrast(colours[pair[0]], colours[pair[1]]) < 4.5
    } == {}


def test_few_items_are_cautioned_against() -> None:
    few = _small(Result("forget_probability", "method", 0.5, n=3), Result("forget_probability", "original", 0.9, n=3))
    assert answer(few)[-1].startswith("Caution: only 3 forget items were asked (fewer than 20)")
    one = _small(Result("forget_probability", "method", 0.5, n=1))
    assert "only one forget item was asked" in answer(one)[-1]
    enough = _small(Result("forget_probability", "method", 0.5, n=20))
    assert not any("Caution" in said for said in answer(enough))
    assert answer(replace(few, verdicts={"overall": "In short."}))[0] == "In short."
