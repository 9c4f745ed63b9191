"""Numbers under the names of open-unlearning."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hooked import VestigeError
from tests.vestige.test_audit import CHECKS
from vestige.open_unlearning import NAMES, tofu_summary
from vestige.result import AuditReport, Result, SubjectInfo


def test_every_measured_number_has_its_name_there(tmp_path: Path) -> None:
    assert set(NAMES.values()) <= CHECKS
    results = [Result(check, "npo", None if check == "priv_leak" else 0.25 + n) for n, check in enumerate(CHECKS)]
    report = AuditReport({}, (SubjectInfo("npo", "unlearned"),), tuple(results))
    found = tofu_summary(report, "npo")
    assert set(found) == set(NAMES) - {"privleak"}
    assert found["forget_Q_A_Prob"] == report.result("forget_probability", "npo").estimate
    assert found["forget_truth_ratio"] == report.result("truth_ratio", "npo").estimate
    json.dumps(found, allow_nan=False)
    report.save(tmp_path)
    for path in (tmp_path, tmp_path / "report.json"):
        assert tofu_summary(AuditReport.load(path), "npo") == found
    with pytest.raises(VestigeError, match="cannot read a report from"):
        AuditReport.load(tmp_path / "absent")
    with pytest.raises(KeyError, match="'other'"):
        tofu_summary(report, "other")
