"""`report.json`: strict, deterministic, and readable again without loss."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import pytest

from hooked.errors import VestigeError
from vestige.report import from_json, read_json, render_html, to_json, write_report
from vestige.report.normal import normalised
from vestige.report.storage import dumps
from vestige.result import AuditReport, ConceptVectorRow, Result, SubjectInfo

from .sample import NAMES, sample_report


def _strictly(text: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def _turned(mapping: Mapping[str, Any]) -> dict[str, Any]:
    return {key: mapping[key] for key in reversed(list(mapping))}


def _broken(**values: Any) -> AuditReport:
    result = Result("lens_leak", "original", 0.5, n=2, note="a remark")
    return AuditReport({}, (SubjectInfo("original", "original"),), (replace(result, **values),))


def test_round_trip_keeps_everything(tmp_path: Path) -> None:
    report = sample_report()
    write_report(report, tmp_path)
    again = read_json(tmp_path / "report.json")
    assert again == normalised(report)
    assert render_html(again) == render_html(report)
    assert dumps(to_json(again)) == (tmp_path / "report.json").read_text()


def test_shape_of_the_file() -> None:
    data = _strictly(dumps(to_json(sample_report())))
    sections = "provenance subjects results concept_vectors generations verdicts latents attacks where residual"
    assert list(data) == sections.split()
    assert [subject["name"] for subject in data["subjects"]] == list(NAMES)
    assert {"name", "kind", "intent"} <= set(data["subjects"][0])
    for result in data["results"]:
        assert {"check", "subject", "estimate", "low", "high", "n", "floor", "control"} <= set(result)
        assert ("per_layer" in result) == (result["check"] in ("lens_leak", "probe_leak"))
    assert list(data["generations"][0]["outputs"]) == list(NAMES)


def test_the_text_is_ascii_whatever_a_model_wrote() -> None:
    assert dumps(to_json(sample_report())).isascii()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_become_null_with_a_reason(value: float) -> None:
    data = to_json(_broken(estimate=value, control=value))["results"][0]
    assert data["estimate"] is None
    assert data["control"] is None
    assert data["note"] == "a remark; estimate was not finite; control was not finite"


def test_a_missing_layer_is_null_and_reads_back_as_nan() -> None:
    data = to_json(_broken(per_layer=(0.1, math.nan, math.inf)))
    assert data["results"][0]["per_layer"] == [0.1, None, None]
    again = from_json(_strictly(dumps(data)))
    assert again.results[0].per_layer is not None
    assert [math.isnan(value) for value in again.results[0].per_layer] == [False, True, True]
    assert to_json(again) == data


def test_numbers_of_concept_vectors_and_provenance_are_strict_too() -> None:
    row = ConceptVectorRow(0, 1, math.inf, math.nan, ("a",), {"original": ("a",)}, {"original": math.nan})
    report = replace(_broken(), provenance={"loss": [math.nan]}, concept_vectors=(row,))
    data = _strictly(dumps(to_json(report)))
    assert data["concept_vectors"][0]["score"] is None
    assert data["concept_vectors"][0]["cosine"] == {"original": None}
    assert data["provenance"] == {"loss": [None]}
    assert to_json(from_json(data)) == data


def test_the_order_of_mappings_does_not_change_the_bytes() -> None:
    report = sample_report()
    turned = replace(
        report,
        provenance=_turned(report.provenance),
        verdicts=_turned(report.verdicts),
        generations=tuple(replace(row, outputs=_turned(row.outputs)) for row in report.generations),
    )
    assert dumps(to_json(turned)) == dumps(to_json(report))
    assert render_html(turned) == render_html(report)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot read a report"),
        ('{"provenance": NaN}', "NaN is not strict JSON"),
        ("[]", "needs the sections"),
        ('{"provenance": {}, "subjects": []}', "missing: results, concept_vectors"),
    ],
)
def test_a_file_that_is_no_report_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "report.json"
    path.write_text(text)
    with pytest.raises(VestigeError, match=r"report\.json") as error:
        read_json(path)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("section", "entry"),
    [
        ("results", [{"check": "x", "subject": "original"}]),
        ("results", [{"check": "x", "subject": "original", "estimate": "high"}]),
        ("results", [{"check": "x", "subject": "original", "estimate": 1.0, "surprise": 1}]),
        ("subjects", [{"name": "original"}]),
        ("concept_vectors", [{"layer": 0}]),
        ("generations", [{"split": "forget", "prompt": "p", "answer": "a", "outputs": 3}]),
        ("verdicts", 3),
    ],
)
def test_a_wrong_field_is_refused(section: str, entry: Any) -> None:
    data = to_json(_broken())
    data[section] = entry
    with pytest.raises(VestigeError, match="field"):
        from_json(data)


def test_a_missing_file_is_an_error_a_user_can_act_on(tmp_path: Path) -> None:
    with pytest.raises(VestigeError, match=r"absent\.json"):
        read_json(tmp_path / "absent.json")


def test_reports_that_contradict_themselves_are_refused() -> None:
    report = _broken()
    with pytest.raises(VestigeError, match="at least one subject"):
        to_json(replace(report, subjects=()))
    with pytest.raises(VestigeError, match="unique"):
        to_json(replace(report, subjects=report.subjects * 2))
    with pytest.raises(VestigeError, match="two results"):
        render_html(replace(report, results=report.results * 2))
    with pytest.raises(VestigeError, match="names subject 'other'"):
        render_html(_broken(subject="other"))
    with pytest.raises(VestigeError, match=r"provenance\.model needs a JSON value .* got PosixPath"):
        to_json(replace(report, provenance={"model": Path("x")}))
