"""Records in a folder for work, made again where something else is asked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def kept(path: Path, asked: Mapping[str, Any], make: Callable[[], Mapping[str, Any]]) -> dict[str, Any]:
    """Return a record that answers what is asked, made and written where the file is missing or answers something else.

    Args:
        path: Of the record; complete or not there.
        asked: JSON values that decide what the record holds; kept in it as `asked`.
        make: Makes the rest, as JSON values.
    """
    if path.is_file():
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if found["asked"] == asked:
            return found
    scratch = path.with_suffix(".part")
    scratch.write_text(json.dumps({"asked": asked, **make()}), encoding="utf-8")
    os.replace(scratch, path)
    return dict(json.loads(path.read_text(encoding="utf-8")))
