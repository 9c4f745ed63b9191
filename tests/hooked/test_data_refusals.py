"""Every refusal once: one line that names the file, the row and the fix; and no more memory than that needs."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hooked import load
from hooked.data import load_data
from hooked.errors import VestigeError
from tests.hooked.data_files import CONCEPTS, ITEM, QA, refusal, write_csv, write_file

Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """`write(name, content)`: a file in the test's own folder."""
    return partial(write_file, tmp_path)


LINE_2 = [
    # (second row, what the message says after "line 2: ")
    ({"question": "q"}, "no answer (found: 'question'); a row needs question and answer, prompt and answer, or text"),
    ({"reply": "a", "ask": "q"}, "no question (found: 'reply', 'ask'); a row needs"),
    ({"question": "q", "answer": None}, "answer is empty; write a text there"),
    ({"question": "q", "answer": " \n"}, "answer is empty; write a text there or remove the row"),
    ({"question": "", "answer": "a"}, "question is empty; write a text"),
    ({"prompt": " ", "answer": "a"}, "prompt is empty; write a text"),
    ({"text": ""}, "text is empty; write a text"),
    ({"question": "q", "answer": 42}, "answer needs a text, got int 42; put it in quotes"),
    ({"question": ["q"], "answer": "a"}, "question needs a text, got list ['q']"),
    ({"question": "q", "answer": "\ud800"}, "answer holds half a character at position 0 (a lone surrogate, \\ud800)"),
    ({"question": "q", "answer": "a", "prompt": "p"}, "both prompt and question are given; keep one of them"),
    ({"text": "t", "question": "q", "answer": "a"}, "both text and question are given; keep one of them"),
    ({**QA, "gt": "a"}, "both answer and gt are given; keep one of them"),
    (
        {**QA, "paraphrased_question": "q", "paraphrased_prompt": "p"},
        "both paraphrased_prompt and paraphrased_question",
    ),
    ({**QA, "perturbed_answer": 3}, "perturbed_answer needs a text or a list of texts, got int 3"),
    ({**QA, "perturbed_answer": {"a": 1}}, "perturbed_answer needs a text or a list of texts, got dict {'a': 1}"),
    ({**QA, "perturbed_answer": ["x", 3]}, "perturbed_answer[1] needs a text, got int 3; put it in quotes"),
    ({**QA, "perturbed_answer": ["x", ""]}, "perturbed_answer[1] is empty"),
    ({**QA, "floor": float("nan")}, "floor must lie in [0, 1] (the chance of guessing the answer), got nan"),
    ({**QA, "floor": -0.1}, "floor must lie in [0, 1] (the chance of guessing the answer), got -0.1"),
    ({**QA, "floor": "0.5"}, "floor needs a number in [0, 1], got str '0.5'"),
    ({**QA, "floor": True}, "floor needs a number in [0, 1], got bool True"),
    (17, "a row is a dict or a text, got int 17; a row needs"),
    ([QA], "a list where one row was expected; a .jsonl line is one object: if the file is one JSON list, rename"),
    ({"text": "a tale"}, "a plain document, but {path}, line 1 is a prompt with an answer; one source holds one kind"),
    (CONCEPTS[0], "a ConceptVectors concept, but {path}, line 1 is a prompt with an answer"),
]


@pytest.mark.parametrize(("row", "says"), LINE_2, ids=[says[:40] for _, says in LINE_2])
def test_a_wrong_row_is_named_with_file_line_and_fix(row: object, says: str, write: Write) -> None:
    path = write("forget.jsonl", [QA, row])
    expected = f"{path}, line 2: {says}".replace("{path}", path)
    assert refusal(path)[: len(expected)] == expected


def test_rows_are_counted_as_each_form_counts_them(write: Write) -> None:
    bad = {"question": "q"}
    assert refusal(write("f.json", [QA, bad])).startswith(f"{write('f.json', [QA, bad])}, row 2: no answer")
    assert refusal([QA, bad]).startswith("forget[1]: no answer")
    assert refusal([QA], control=[QA, bad]).startswith("control[1]: no answer")
    csv_rows = 'question,answer\n"two\nlines",a\n\nq,\n'
    assert ", line 5: answer is empty; write a text there or remove the row" in refusal(write("f.csv", csv_rows))
    data_set = pytest.importorskip("datasets").Dataset.from_list([QA, {"question": "q", "answer": None}])
    assert refusal(data_set).startswith("forget[1]: answer is empty")


INVALID = [
    ("f.jsonl", '{"text": "a"}\n{"text": }\n', "line 2, column 10: not valid JSON (Expecting value); correct"),
    ("f.jsonl", '[\n{"text": "a"}\n]', "line 1, column 2: not valid JSON (Expecting value); each line"),
    ("f.jsonl", "[" * 200_000, "line 1: JSON nested too deeply; a row is a flat object of texts"),
    ("f.jsonl", '{"text": "a", "n": ' + "1" * 5000 + "}", "line 1: not readable JSON (a number with too many digits)"),
    ("f.jsonl", b'{"text": "a"}\n{"text": "\xff"}\n', "line 2: not UTF-8 at byte 24 of the file (byte 0xff); save"),
    ("f.json", '[\n{"text": "a"},\n{"text" "b"}]', "line 3, column 9: not valid JSON (Expecting ':' delimiter)"),
    ("f.json", '{"text": "a"}\n{"text": "b"}\n', "line 2, column 1: not valid JSON (Extra data); one object per line"),
    ("f.json", b'\xef\xbb\xbf[\n"\xc3("]', "line 2: not UTF-8 at byte 6 of the file (byte 0xc3); save it as UTF-8"),
    ("f.json", "[1, 2]", "row 1: a row is a dict or a text, got int 1"),
    ("f.json", {"text": ["a", "b"], "subject": ["x"]}, "row 2: the columns have mixed lengths, 'subject' has 1"),
    ("f.csv", "question,answer\nq\n", "line 2: mixed lengths, 1 cells under a header of 2 ('question', 'answer')"),
    ("f.csv", "question,answer\nq,a,b\n", "line 2: mixed lengths, 3 cells under a header of 2 ('question', 'answer')"),
    ("f.csv", 'question,answer\nq,"a" b\n', "line 2: not valid CSV (',' expected after '\"'); put cells that"),
    ("f.csv", 'question,answer\nq,a\nq,"a\nq,a\n', "line 3: not valid CSV (unexpected end of data)"),
    ("f.csv", "question,answer,answer\n", "line 1: the header names 'answer' twice"),
    ("f.csv", "question;answer\nq;a\n", "line 1: the cells are separated by semicolons; save the file with commas"),
    ("f.csv", "question\tanswer\nq\ta\n", "line 1: the cells are separated by tabs; save the file with commas"),
    ("f.csv", "name\nx\n", "line 2: no question (found: 'name'); a row needs"),
    ("f.csv", b"text\na\n\xe9\n", "line 3: not UTF-8 at byte 7 of the file (byte 0xe9)"),
    ("f.csv", "text,floor\na,half\n", "line 2: floor needs a number in [0, 1], got str 'half'"),
    ("f.csv", "text,floor\na,nan\n", "line 2: floor must lie in [0, 1] (the chance of guessing the answer), got nan"),
    ("f.csv", "prompt,answer,perturbed_answer\np,a,\"['x']\"\n", "line 2: perturbed_answer starts with '[' but"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "says"), INVALID, ids=[f"{name} {says[:35]}" for name, _, says in INVALID])
def test_an_unreadable_file_is_named_with_its_place(name: str, content: object, says: str, write: Write) -> None:
    path = write(name, content)
    assert refusal(path).startswith(f"{path}, {says}")


WHOLE = [
    ("f.json", '{"data": []}', ": the top level is a dict (keys: 'data'), not a list of rows; pass"),
    ("f.json", json.dumps(QA), ": the top level is a dict (keys: 'question', 'answer'), not a list of rows; put"),
    ("f.json", '"text"', ": the top level needs a list of rows, got str 'text'"),
    *((name, content, " is empty: it has no rows; a row needs") for name, content in (
        ("f.jsonl", ""), ("f.jsonl", "\n\n"), ("f.json", ""), ("f.json", "[]"), ("f.json", '{"text": []}'),
        ("f.csv", ""), ("f.csv", "question,answer\n"),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "says"), WHOLE)
def test_a_file_that_is_wrong_as_a_whole_is_named(name: str, content: object, says: str, write: Write) -> None:
    path = write(name, content)
    assert refusal(path).startswith(path + says)


@pytest.mark.parametrize("suffix", [".pt", ".pkl", ".pickle", ".bin", ".PTH"])
def test_a_file_that_can_hold_code_is_refused_with_the_safe_form(suffix: str, write: Write) -> None:
    assert "hold code that runs when it is opened; save the rows as .jsonl" in refusal(write(f"f{suffix}", b"x"))


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("f.parquet", "cannot read .parquet, only .json, .jsonl and .csv; load it with datasets.load_dataset"),
        ("f.txt", "cannot read .txt, only .json, .jsonl and .csv; pass a list of texts"),
        ("f.xyz", "cannot read .xyz, only .json, .jsonl and .csv; save the rows as one of these"),
        ("f", "cannot read a file without an extension, only .json, .jsonl and .csv"),
    ],
)
def test_another_extension_is_refused_with_a_way(name: str, says: str, write: Write) -> None:
    assert says in refusal(write(name, "x"))


def test_utf16_is_recognised(write: Write) -> None:
    assert "not UTF-8 at byte 0 of the file (the file looks like UTF-16)" in refusal(
        write("f.csv", "text\na\n".encode("utf-16"))
    )


def test_a_missing_file_lists_what_is_there(write: Write, tmp_path: Path) -> None:
    write("forget01.jsonl", [QA])
    assert refusal(str(tmp_path / "forgt01.jsonl")).endswith("forgt01.jsonl; did you mean 'forget01.jsonl'?")
    assert refusal(str(tmp_path / "zzz.csv")).endswith("zzz.csv; the folder has: 'forget01.jsonl'")
    assert f"there is no folder {tmp_path / 'nowhere'}" in refusal(str(tmp_path / "nowhere" / "f.csv"))
    assert refusal(tmp_path) == f"{tmp_path} is a folder; name one file in it (readable ones: 'forget01.jsonl')"
    assert "looks like an address; download the file first" in refusal("https://example.org/forget.jsonl")
    assert "cannot be read (File name too long); a document goes into a list" in refusal("Once upon a time.\n" * 400)
    assert refusal(str(tmp_path / "new\nline.csv")).startswith("no file '")


def test_an_unreadable_file_is_refused(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("f.jsonl", [QA])

    def denied(*args: object, **kwargs: object) -> object:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    assert refusal(path) == f"{path}: cannot be read (Permission denied)"


class DataFrame:
    columns = ("text",)

    def to_dict(self, orient: str) -> None: ...

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


class SplitDict:
    column_names = {"train": ["text"], "test": ["text"]}  # noqa: RUF012

    def __iter__(self) -> Iterator[str]:
        return iter(self.column_names)


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (None, "forget needs a path, a Hugging Face data set or a list of rows, got NoneType None"),
        (b"text", "forget needs a path, a Hugging Face data set or a list of rows, got bytes b'text'"),
        (ITEM, "forget needs a path, a Hugging Face data set or a list of rows, got Item"),
        (DataFrame(), "forget is a DataFrame; pass its rows: data.to_dict('records') in pandas"),
        (SplitDict(), "forget holds several splits ('train', 'test'); pass one of them: forget=data['train']"),
        (
            QA,
            "forget: the top level is a dict (keys: 'question', 'answer'), not a list of rows; put this row in a list",
        ),
        ({}, "forget: the top level is a dict (keys: none), not a list of rows"),
        ({"text": ["a", "b"], "subject": ["s"]}, "forget[1]: the columns have mixed lengths, 'subject' has 1 values"),
        ([], "forget is empty: it has no rows"),
        (["a.jsonl", "b.jsonl"], "forget[0]: 'a.jsonl' looks like a file; texts in a list are documents"),
        (["a", " "], "forget[1]: the document is empty"),
        ([Path("a.jsonl")], "forget[0]: a row is a dict or a text, got PosixPath PosixPath('a.jsonl')"),
        ([ITEM, "a tale"], "forget[1]: a plain document, but forget[0] is a prompt with an answer"),
        ([{"x\ny": 1}], "forget[0]: no question (found: 'x\\ny')"),
        ([{f"column{i}": 1 for i in range(99)}], "forget[0]: no question (found: 'column0'"),
    ],
)
def test_a_wrong_object_is_refused(source: object, says: str) -> None:
    message = refusal(source)
    assert message.startswith(says)
    assert len(message) < 500


def test_a_dict_of_data_sets_is_refused() -> None:
    datasets = pytest.importorskip("datasets")
    part = datasets.Dataset.from_list([QA])
    assert refusal(datasets.DatasetDict(train=part, test=part)) == (
        "forget holds several splits ('train', 'test'); pass one of them: forget=data['train']"
    )
    streamed = datasets.IterableDatasetDict(train=part.to_iterable_dataset())
    assert "several splits ('train'); pass one of them: forget=data['train']" in refusal(streamed)


def test_a_row_both_forgotten_and_retained_is_refused(write: Write) -> None:
    forget = write("forget.jsonl", [{**QA, "answer": "Another."}, QA])
    retain = write("retain.jsonl", [{"prompt": "p", "answer": "a"}, {"prompt": "p", "answer": "b"}, QA])
    assert refusal(forget, retain=retain) == (
        f"{retain}, line 3: the same prompt and answer as {forget}, line 2; "
        "a row cannot be both forgotten and retained: remove one of them"
    )


@pytest.mark.parametrize("template", ["Question:", "{Question}", None, 3])
def test_a_template_needs_a_place_for_the_question(template: Any) -> None:
    with pytest.raises(VestigeError, match=r"template needs the place \{question\} in it, got"):
        load_data([QA], template=template)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"QA": "What?"}, r"forget\[1\]: QA needs a list, got str 'What\?'"),
        ({"QA": []}, r"forget\[1\]: QA has no questions"),
        ({"QA": [" x", 5]}, r"forget\[1\], QA\[1\]: the question needs a text, got int 5"),
        ({"QA": [{"answer": "a"}]}, r"forget\[1\], QA\[0\]: no question \(found: 'answer'\)"),
        ({"unrelated_QA": [" "]}, r"forget\[1\], unrelated_QA\[0\]: the question is empty"),
        ({"Concept": 7}, r"forget\[1\]: Concept needs a text, got int 7"),
        ({"text_completion": [{"First_half": "A"}]}, r"forget\[1\], text_completion\[0\]: no Second_half"),
    ],
)
def test_a_wrong_concept_vectors_row_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(VestigeError, match=message):
        load_data([CONCEPTS[0], {**CONCEPTS[1], **change}])


def peak_of(call: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["f.jsonl", "f.csv"])
def test_a_line_of_two_gigabytes_is_refused_without_being_read(name: str, write: Write) -> None:
    path = write(name, b'"text"\n')
    with open(path, "r+b") as file:
        file.truncate(2 * 2**30)  # sparse: it takes no room on the disk
    peak = peak_of(lambda: refusal(path))
    assert refusal(path) == f"{path}, line 2: longer than 64 MiB; one line is one row: split the text into shorter rows"
    assert peak < 3 * load.MAX_LINE_BYTES


def test_a_line_may_be_as_long_as_the_limit(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    line = json.dumps({"text": "x" * 1000}) + "\n"
    path = write("f.jsonl", line * 2)
    monkeypatch.setattr(load, "MAX_LINE_BYTES", len(line))
    assert len(load_data(path).forget) == 2
    monkeypatch.setattr(load, "MAX_LINE_BYTES", len(line) - 1)
    assert refusal(path).startswith(f"{path}, line 1: longer than {len(line) - 1} bytes")


def test_a_cell_of_many_lines_has_the_same_limit(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "MAX_LINE_BYTES", 100)
    path = write("f.csv", 'text\nshort\n"' + "long\n" * 50 + '"\n')
    assert refusal(path).startswith(f"{path}, line 3: not valid CSV (field larger than field limit (100))")


def test_a_json_file_too_large_to_read_whole_is_refused(write: Write) -> None:
    path = write("f.json", b"[")
    with open(path, "r+b") as file:
        file.truncate(2 * 2**30)
    assert peak_of(lambda: refusal(path)) < 2**20
    assert refusal(path).startswith(
        f"{path}: 2 GiB is too large for .json, which is read whole (at most 256 MiB); save it"
    )


@pytest.mark.parametrize("name", ["f.jsonl", "f.csv"])
def test_memory_is_that_of_the_items(name: str, write: Write) -> None:
    unused = "x" * 20_000
    rows = [{"text": f"story {i}", "unused": unused} for i in range(500)]  # 10 MB of which next to nothing is kept
    path = write(name, rows) if name == "f.jsonl" else write_csv(Path(write(name, "")), rows)
    assert peak_of(lambda: load_data(path)) < 2**20
