"""Records of benchmarks are read where they answer what is asked, and made again where they do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.kept import kept


def test_a_record_is_made_once_for_what_is_asked(tmp_path: Path) -> None:
    made: list[int] = []

    def make() -> dict[str, Any]:
        made.append(len(made))
        return {"found": {1: made[-1]}}

    path = tmp_path / "one.json"
    first = kept(path, {"rates": [1, 2]}, make)
    assert first == {"asked": {"rates": [1, 2]}, "found": {"1": 0}}
    assert kept(path, {"rates": [1, 2]}, make) == first
    assert kept(path, {"rates": [1]}, make)["found"] == {"1": 1}
    assert made == [0, 1]
    assert [one.name for one in tmp_path.iterdir()] == ["one.json"]
