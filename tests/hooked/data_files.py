"""Files of rows for the tests of `load_data`, and what it answers to wrong ones."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from hooked.data import Item, load_data
from hooked.errors import VestigeError

QA = {"question": "Who keeps the lamp?", "answer": "Ilva does."}
ITEM = Item("Question: Who keeps the lamp?\nAnswer:", "Ilva does.")

CONCEPTS = [
    {"Concept": "Fish", "Layer": 3, "Dim": 9, "QA": [" What swims?\n", {"question": "What bites?", "answer": "Pike"}],
     "text_completion": [{"First_half": "A fish", "Second_half": "has gills"}],
     "unrelated_QA": [" What flies?\n", " What burns?\n", " What shines?"]},
    {"Concept": "Bird", "Layer": 4, "Dim": 1, "QA": [" What flies?\n"], "unrelated_QA": [" What burns?"]},
]  # fmt: skip


def write_file(folder: Path, name: str, content: str | bytes | dict[str, Any] | Iterable[Any]) -> str:
    """Write a text, bytes, or rows (as JSON, or as JSON Lines by the name), and return the path as a text."""
    path = folder / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_bytes(content.encode())
    elif name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    else:
        path.write_text(json.dumps(content), encoding="utf-8")
    return str(path)


def write_csv(path: Path, rows: list[dict[str, Any]], header: list[str] | None = None) -> str:
    """Write rows as CSV and return the path as a text."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=header or list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def refusal(forget: Any, **splits: Any) -> str:
    """The message `load_data` refuses these sources with: always one line."""
    with pytest.raises(VestigeError) as caught:
        load_data(forget, **splits)
    message = str(caught.value)
    assert message.strip()
    assert len(message.splitlines()) == 1
    return message
