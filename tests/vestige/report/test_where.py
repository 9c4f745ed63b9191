"""Where it still is: maps as they are shown, stored and drawn."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

from hooked.errors import VestigeError
from vestige.report import draw_figures, render_html
from vestige.report.normal import normalised
from vestige.report.storage import dumps, from_json, to_json
from vestige.report.where import build_where
from vestige.result import AuditReport, SubjectInfo, WhereMap

SUBJECTS = (SubjectInfo("original", "original"), SubjectInfo("<b>npo", "unlearned"), SubjectInfo("retain", "retrained"))
PARTS, PLACES = ("attention", "mlp", "block"), ("first", "between", "last", "rest", "answer")


def made(subject: str, size: float = 1.0, *, clear: int = 1, note: str = "") -> WhereMap:
    """A map of two layers: more in higher ones, and nothing known of tokens in between."""
    shares = tuple(
        tuple(tuple(math.nan if p == 1 else size * (c + 1) * (n + 1) * p / 24 for p in range(5)) for n in range(2))
        for c in range(3)
    )
    flags = tuple(tuple(tuple(int(clear and s > 0.1) for s in row) for row in part) for part in shares)
    return WhereMap(
        subject, PARTS, PLACES, shares, shares, shares, flags, shares, (3, 0, 3, 4, 4), 4.1, "retain", "", note
    )


def report() -> AuditReport:
    maps = (made("original"), made("<b>npo", 0.4), made("retain", 0.3, clear=0, note="the scale itself"))
    return AuditReport({}, SUBJECTS, (), where=maps)


def test_without_maps_there_is_no_section() -> None:
    assert build_where(normalised(replace(report(), where=()))) is None
    none = tuple(WhereMap(s.name, note="needs a model") for s in SUBJECTS)
    assert build_where(normalised(replace(report(), where=none))) is None
    assert 'id="where"' not in render_html(replace(report(), where=none))


def test_every_subject_is_a_map_and_empty_columns_are_dropped() -> None:
    section = build_where(normalised(report()))
    assert section is not None
    assert section.heads == ("subj. first", "subj. last", "rest", "answer")
    assert [view.subject for view in section.views] == [s.name for s in SUBJECTS]
    top = section.views[0].rows[1][2][-1]
    assert (top.said, top.step) == ("1", 10)
    assert section.views[0].strongest.startswith("most in MLP 1 at “answer” (.67), ")
    assert section.control == ""
    assert section.whole == "4.10"


def test_what_the_control_reaches_too_has_brackets_and_no_shade() -> None:
    section = build_where(normalised(report()))
    assert section is not None
    cells = [one for row in section.views[2].rows for part in row for one in part]
    assert all(one.step is None for one in cells)
    assert {one.said for one in cells} >= {"0", "(.05)"}
    assert section.views[2].strongest.startswith("no single")


def test_shades_are_fixed_from_zero_to_one() -> None:
    section = build_where(normalised(replace(report(), where=(made("original", 3.0),))))
    assert section is not None
    one = section.views[0].rows[1][2][-1]
    assert (one.said, one.step) == ("3.0", 10)


def test_the_page_shows_them_as_text() -> None:
    page = render_html(report())
    assert 'href="#where"' in page
    assert "<b>npo" not in page
    assert page.count('scope="colgroup" colspan="4"') == 3 * len(SUBJECTS)
    assert "so only cells of the original are coloured" in page
    beside = render_html(replace(report(), where=(replace(made("original"), control="never"),)))
    assert "numbers in brackets cannot be told from it" in beside
    assert "so only cells of the original" not in beside


def test_round_trip() -> None:
    once = normalised(report())
    assert from_json(to_json(report())) == once
    assert dumps(to_json(once)) == dumps(to_json(report()))
    wild = replace(made("original"), whole=math.inf, shares=((((math.inf, 0.0, 0.0, 0.0, 0.0),) * 2,) * 3))
    kept = from_json(to_json(replace(report(), where=(wild,)))).where[0]
    assert kept.whole is None
    assert math.isnan(kept.shares[0][0][0])
    # Reports of earlier versions have none.
    earlier = {name: value for name, value in to_json(report()).items() if name != "where"}
    assert from_json(earlier).where == ()


def test_a_map_of_nobody_is_refused() -> None:
    with pytest.raises(VestigeError, match="a map names subject 'ga'; the subjects are original"):
        render_html(replace(report(), where=(made("ga"),)))


def test_the_figure_is_the_same_bytes(tmp_path: Path) -> None:
    drawn = []
    for name in "ab":
        (tmp_path / name).mkdir()
        (path,) = draw_figures(report(), tmp_path / name)
        assert path.name == "where.png"
        drawn.append(path.read_bytes())
    assert drawn[0] == drawn[1]
