"""Read rows one at a time out of a file, a data set or a list, and know the place of each.

JSON Lines and CSV stream: memory holds one line of bounded length, never the file. Only `.json` is read whole, up to
a bound.
"""

from __future__ import annotations

import codecs
import csv
import difflib
import json
import os
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from hooked.errors import VestigeError
from hooked.fields import FIELDS, describe, names

Source = str | os.PathLike[str] | Iterable[object]
Rows = Generator[tuple[int, object], None, None]

MAX_LINE_BYTES = 64 * 2**20
MAX_JSON_BYTES = 256 * 2**20
_MOST_OF_A_NAME = 300
_JSON, _JSONL, _CSV = {".json"}, {".jsonl", ".ndjson"}, {".csv"}
SUFFIXES = frozenset(_JSON | _JSONL | _CSV)
_CODE = {".pt", ".pth", ".pkl", ".pickle", ".bin", ".ckpt", ".joblib", ".npy", ".npz"}
_ADVICE = {
    ".parquet": "load it with datasets.load_dataset('parquet', data_files=..., split='train') and pass the data set",
    ".arrow": "load it with datasets.Dataset.from_file and pass the data set",
    ".tsv": "save it with commas as .csv",
    ".xlsx": "save it as .csv (UTF-8)",
    ".txt": 'pass a list of texts, or write one JSON object {"text": ...} per line as .jsonl',
    ".gz": "unpack it first",
    ".zip": "unpack it first",
}


@dataclass(frozen=True)
class Origin:
    """Where rows come from.

    Args:
        name: The path, or the split for rows in memory.
        unit: `line` and `row` count from 1; `index` is a Python index, from 0.
        from_csv: Every cell is a text.
    """

    name: str
    unit: str = "index"
    from_csv: bool = False

    def at(self, number: int) -> str:
        """Name one row in a message."""
        return f"{self.name}[{number}]" if self.unit == "index" else f"{self.name}, {self.unit} {number}"


def read_rows(source: Source, split: str) -> tuple[Origin, Rows]:
    """Open a source; rows come as (number, row), where `Origin.at(number)` says where that is.

    Raises:
        VestigeError: The source is nothing that rows can be read from, or a row is not readable (when it is reached).
    """
    if isinstance(source, str | os.PathLike):
        return _file_rows(Path(source))
    origin = Origin(split)
    if isinstance(source, Mapping):
        return origin, _columns(source, origin)
    if isinstance(getattr(source, "column_names", None), Mapping):
        raise _several_splits(origin.name, source.column_names)  # type: ignore[attr-defined]
    if hasattr(source, "to_dict") and hasattr(source, "columns"):
        raise VestigeError(f"{split} is a {type(source).__name__}; pass its rows: data.to_dict('records') in pandas")
    if isinstance(source, bytes | bytearray) or not isinstance(source, Iterable):
        raise VestigeError(
            f"{split} needs a path, a Hugging Face data set or a list of rows, got {describe(source)}; "
            "put a single row in a list"
        )
    return origin, _enumerated(source)


def _enumerated(source: Iterable[object], start: int = 0) -> Rows:
    yield from enumerate(source, start)


def _file_rows(path: Path) -> tuple[Origin, Rows]:
    name, suffix = _shown(path), path.suffix.lower()
    if suffix in _CODE:
        raise VestigeError(
            f"{name}: {suffix} files are not read, because such a file can hold code that runs when it is opened; "
            "save the rows as .jsonl (one JSON object per line), .json or .csv"
        )
    try:
        _check_is_file(path, name)
    except OSError as error:
        raise VestigeError(f"{name}: cannot be read ({error.strerror}); a document goes into a list: [text]") from None
    if suffix in _JSONL:
        return Origin(name, "line"), _jsonl(path, name)
    if suffix in _CSV:
        return Origin(name, "line", from_csv=True), _csv(path, Origin(name, "line"))
    if suffix in _JSON:
        return Origin(name, "row"), _json(path, Origin(name, "row"))
    advice = _ADVICE.get(suffix, "save the rows as one of these")
    found = suffix or "a file without an extension"
    raise VestigeError(f"{name}: cannot read {found}, only .json, .jsonl and .csv; {advice}")


def _check_is_file(path: Path, name: str) -> None:
    if path.is_dir():
        inside = sorted(_shown(Path(entry)) for entry in os.listdir(path) if Path(entry).suffix.lower() in SUFFIXES)
        raise VestigeError(f"{name} is a folder; name one file in it (readable ones: {names(inside)})")
    if path.exists():
        return
    if re.match(r"[a-z0-9]{2,}:/", os.fspath(path)):
        raise VestigeError(f"{name} looks like an address; download the file first and give its path")
    if not path.parent.is_dir():
        raise VestigeError(f"no file {name}: there is no folder {_shown(path.parent)}")
    inside = sorted(os.listdir(path.parent))
    near = difflib.get_close_matches(path.name, inside, n=3, cutoff=0.5)
    hint = f"did you mean {names(near)}?" if near else f"the folder has: {names(inside)}"
    raise VestigeError(f"no file {name}; {hint}")


def _shown(path: Path) -> str:
    text = os.fspath(path)
    text = text if len(text) <= _MOST_OF_A_NAME else f"{text[:_MOST_OF_A_NAME]}..."
    return text if text.isprintable() else repr(text)


@contextmanager
def _opened(path: Path, name: str) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as file:
            yield file
    except OSError as error:
        raise VestigeError(f"{name}: cannot be read ({error.strerror})") from error


def _decoded(data: bytes, name: str, line: int, offset: int) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        utf16 = line == 1 and data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        cause = "the file looks like UTF-16" if utf16 else f"byte 0x{data[error.start]:02x}"
        line += data.count(b"\n", 0, error.start)
        raise VestigeError(
            f"{name}, line {line}: not UTF-8 at byte {offset + error.start} of the file ({cause}); save it as UTF-8"
        ) from None


def _lines(path: Path, name: str) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text); an endless line is refused after `MAX_LINE_BYTES`, without reading on."""
    number = offset = 0
    with _opened(path, name) as file:
        while data := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(data) > MAX_LINE_BYTES:
                raise VestigeError(
                    f"{name}, line {number}: longer than {_size(MAX_LINE_BYTES)}; "
                    "one line is one row: split the text into shorter rows"
                )
            bom = len(codecs.BOM_UTF8) if number == 1 and data.startswith(codecs.BOM_UTF8) else 0
            yield number, _decoded(data[bom:], name, number, offset + bom)
            offset += len(data)


def _size(count: int | float) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.4g} {unit}"
        count /= 1024
    return f"{count:.4g} GiB"


def _jsonl(path: Path, name: str) -> Rows:
    for number, text in _lines(path, name):
        if not text.strip():
            continue
        row = _parsed(text.rstrip(), name, number)
        if isinstance(row, list):
            raise VestigeError(
                f"{name}, line {number}: a list where one row was expected; "
                "a .jsonl line is one object: if the file is one JSON list, rename it to .json"
            )
        yield number, row


def _parsed(text: str, name: str, line: int | None) -> object:
    start = f"{name}, line {line or 1}"
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        where = f"{name}, line {line or error.lineno}, column {error.colno}"
        raise VestigeError(f"{where}: not valid JSON ({error.msg}); {_json_advice(error, text, line)}") from None
    except RecursionError:
        raise VestigeError(f"{start}: JSON nested too deeply; a row is a flat object of texts") from None
    except ValueError:
        raise VestigeError(f"{start}: not readable JSON (a number with too many digits); shorten it") from None


def _json_advice(error: json.JSONDecodeError, text: str, line: int | None) -> str:
    if line is None and error.msg == "Extra data" and text.lstrip().startswith("{"):
        return "one object per line is JSON Lines: rename the file to .jsonl"
    if line is not None and text.strip() in ("[", "{"):
        return "each line of a .jsonl file is one whole object; if the file is one JSON list, rename it to .json"
    return "correct that place"


def _json(path: Path, origin: Origin) -> Rows:
    name = origin.name
    text = _whole(path, name)
    if not text.strip():
        return
    rows = _parsed(text, name, None)
    del text
    if isinstance(rows, list):
        yield from _enumerated(rows, start=1)
    elif isinstance(rows, Mapping):
        yield from _columns(rows, origin)
    else:
        raise VestigeError(f"{name}: the top level needs a list of rows, got {describe(rows)}")


def _whole(path: Path, name: str) -> str:
    with _opened(path, name) as file:
        size = os.fstat(file.fileno()).st_size
        data = file.read(MAX_JSON_BYTES) if size <= MAX_JSON_BYTES else b""
    if size > MAX_JSON_BYTES:
        raise VestigeError(
            f"{name}: {_size(size)} is too large for .json, which is read whole (at most {_size(MAX_JSON_BYTES)}); "
            "save it as .jsonl, one object per line, which is read line by line"
        )
    bom = len(codecs.BOM_UTF8) if data.startswith(codecs.BOM_UTF8) else 0
    return _decoded(data[bom:], name, 1, bom)


def _columns(columns: Mapping[str, object], origin: Origin) -> Rows:
    """Turn {column: list} into rows; any other mapping is refused with what it looks like."""
    name = origin.name
    if any(hasattr(value, "column_names") for value in columns.values()):
        raise _several_splits(name, columns)
    if not (FIELDS & columns.keys() and all(isinstance(value, list | tuple) for value in columns.values())):
        advice = "put this row in a list" if FIELDS & columns.keys() else "pass the list of rows inside it"
        raise VestigeError(f"{name}: the top level is a dict (keys: {names(columns)}), not a list of rows; {advice}")
    lists = {key: list(value) for key, value in columns.items() if isinstance(value, list | tuple)}
    shortest, longest = min(lists, key=lambda key: len(lists[key])), max(lists, key=lambda key: len(lists[key]))
    start = 0 if origin.unit == "index" else 1
    if len(lists[shortest]) != len(lists[longest]):
        raise VestigeError(
            f"{origin.at(start + len(lists[shortest]))}: the columns have mixed lengths, {shortest!r} has "
            f"{len(lists[shortest])} values and {longest!r} has {len(lists[longest])}; give every row a value in each"
        )
    yield from _enumerated((dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)), start)


def _several_splits(name: str, splits: Mapping[str, object]) -> VestigeError:
    first = next(iter(splits), "train")
    return VestigeError(f"{name} holds several splits ({names(splits)}); pass one of them: {name}=data[{first!r}]")


def _csv(path: Path, origin: Origin) -> Rows:
    reader = csv.reader((text for _, text in _lines(path, origin.name)), strict=True)
    header: list[str] | None = None
    while (numbered := _next_record(reader, origin)) is not None:
        number, cells = numbered
        if not cells:
            continue
        if header is None:
            header = _checked_header(cells, origin.at(number))
            continue
        if len(cells) != len(header):
            raise VestigeError(
                f"{origin.at(number)}: mixed lengths, {len(cells)} cells under a header of {len(header)} "
                f"({names(header)}); put cells that contain commas in double quotes"
            )
        yield number, dict(zip(header, cells, strict=True))


def _next_record(reader: Iterator[list[str]], origin: Origin) -> tuple[int, list[str]] | None:
    # The csv module's own limit (131,072 characters) is global and would refuse a long document: raised for one call.
    number = reader.line_num + 1  # type: ignore[attr-defined]
    limit = csv.field_size_limit(MAX_LINE_BYTES)
    try:
        return number, next(reader)
    except StopIteration:
        return None
    except csv.Error as error:
        raise VestigeError(
            f"{origin.at(number)}: not valid CSV ({error}); put cells that contain commas, quotes or line breaks in "
            "double quotes, and double the quotes inside"
        ) from None
    finally:
        csv.field_size_limit(limit)


def _checked_header(header: list[str], where: str) -> list[str]:
    repeated = [name for name in dict.fromkeys(header) if header.count(name) > 1]
    if repeated:
        raise VestigeError(f"{where}: the header names {names(repeated)} twice; give every column its own name")
    for mark, called in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and mark in header[0]:
            raise VestigeError(f"{where}: the cells are separated by {called}; save the file with commas")
    return [name.strip() for name in header]
