"""The files of a feature index: what each says of itself, and how damage is told from another index."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from safetensors.numpy import save

from hooked import VestigeError
from hooked.store.lock import NAME as LOCK
from hooked.store.manifest import StoreSpec, sync_folder, write_json

FORMAT, VERSION = "vestige feature index", 1
SPEC, MANIFEST, SHARDS, STATS, DOCUMENTS, VOCAB = (
    "spec.json",
    "manifest.json",
    "shards",
    "stats.safetensors",
    "documents.safetensors",
    "vocab.json",
)
_OWN = {SPEC, MANIFEST, SHARDS, STATS, DOCUMENTS, VOCAB, LOCK}
_PIECE = 1 << 22


class DamagedError(VestigeError):
    """A file does not hold what was written: it can only be removed and written again."""


def begin(folder: Path, spec: StoreSpec) -> None:
    """Make a folder an index of this specification, or accept one that is.

    Raises:
        VestigeError: It holds other files, or an index of another specification; the message says what differs.
    """
    for path in folder.glob(".*.part"):
        # What an interrupted write left behind is nobody's.
        path.unlink()
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in _OWN)
    if foreign:
        raise VestigeError(f"'{folder}' holds other files ('{foreign[0]}'); choose a new folder for the index")
    if (folder / SPEC).exists() and any((folder / SHARDS).glob("shard-*")):
        different = read_spec(folder).differences(spec)
        if different:
            raise VestigeError(
                f"'{folder}' was begun with other arguments ({'; '.join(different[:3])}); "
                "use the same, or another folder"
            )
    else:
        for name in (MANIFEST, STATS, DOCUMENTS, VOCAB):
            (folder / name).unlink(missing_ok=True)
        write_json(folder / SPEC, {"format": FORMAT, "version": VERSION, "spec": spec.content})
    (folder / SHARDS).mkdir(exist_ok=True)
    for path in (folder / SHARDS).glob(".*.part"):
        path.unlink()


def read_spec(folder: Path) -> StoreSpec:
    """Read what decided an index.

    Raises:
        VestigeError: The folder is no index, the file is damaged, or another version wrote it.
    """
    try:
        return StoreSpec(_read(folder / SPEC)["spec"])
    except (FileNotFoundError, NotADirectoryError) as error:
        hint = "" if folder.is_dir() else "; there is no such folder"
        raise VestigeError(f"'{folder}' is no feature index: {SPEC} is missing{hint}") from error
    except KeyError as error:
        raise DamagedError(f"'{folder / SPEC}' is damaged: {error} is missing") from error


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """Read what a complete index holds; None while it is incomplete.

    Raises:
        VestigeError: It is damaged.
    """
    try:
        read = _read(folder / MANIFEST)
    except FileNotFoundError:
        return None
    if read.pop("digest", None) != digest_of(read):
        raise DamagedError(f"'{folder / MANIFEST}' is damaged: it does not match its checksum")
    return read


def publish(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write the manifest, which makes an index complete."""
    content = {"format": FORMAT, "version": VERSION, **manifest}
    write_json(folder / MANIFEST, {**content, "digest": digest_of(content)})


def _read(path: Path) -> dict[str, Any]:
    try:
        read = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"'{path}' is damaged: {error}") from error
    if not isinstance(read, dict) or read.get("format") != FORMAT:
        raise VestigeError(f"'{path}' is not part of a feature index")
    if read.get("version") != VERSION:
        raise VestigeError(f"'{path}' has format version {read.get('version')!r}; this Vestige reads version {VERSION}")
    return read


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray[Any, Any]], said: Mapping[str, Any]) -> str:
    """Write tensors so that a reader sees all of them or nothing, and return the digest of the file.

    Args:
        path: Where.
        tensors: Names to arrays.
        said: JSON values to write into the header, under one key, since the order of several is left to chance.
    """
    arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
    said = {**said, "xxh3": {name: xxhash.xxh3_128_hexdigest(array.data) for name, array in sorted(arrays.items())}}
    shapes = {name: [array.dtype.str, list(array.shape)] for name, array in sorted(arrays.items())}
    digest = digest_of({"said": said, "shapes": shapes})
    scratch = path.parent / f".{path.name}.part"
    # Written here: safetensors' own writer leaves a file of another name behind where it is killed.
    data = save(arrays, metadata={"vestige": json.dumps({**said, "digest": digest}, sort_keys=True)})
    with scratch.open("wb") as file:
        file.write(data)
        file.flush()
        # On disk before it has its name: a name must never stand for a file whose pages were lost with the power.
        os.fsync(file.fileno())
    os.replace(scratch, path)
    sync_folder(path.parent)
    return digest


def hash_of(path: Path) -> str:
    """Return a checksum of a file."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def digest_of(content: Mapping[str, Any]) -> str:
    """Return SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def damaged_files(folder: Path, manifest: dict[str, Any]) -> list[str]:
    """Return the files beside the shards that are missing or do not match their checksum."""
    return [
        name
        for name, digest in manifest["files"].items()
        if not (folder / name).is_file() or hash_of(folder / name) != digest
    ]


def write_text(path: Path, text: str) -> None:
    """Write text so that a reader sees all of it or nothing."""
    scratch = path.parent / f".{path.name}.part"
    with scratch.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(scratch, path)
    sync_folder(path.parent)
