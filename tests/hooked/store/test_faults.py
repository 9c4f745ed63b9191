"""Damage and misuse: every fault is told by name, nothing is unpickled, and a store can always be finished."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

import hooked.store.writer
from hooked import ActivationStore, VestigeError
from hooked.store.lock import locked
from hooked.store.manifest import publish
from hooked.store.shard_writer import ShardWriter
from tests import warm
from tests.hooked.store.small import SITES, documents, files, small_store
from tests.tiny import random_ids

SECTIONS = [
    "blocks.1.hook_resid_post",
    "blocks.1.hook_resid_post/scales",
    "tokens",
    "documents",
    "blocks.1.attn.hook_z/mean",
]


@pytest.fixture
def copy(store: ActivationStore, tmp_path: Path) -> Path:
    shutil.copytree(store.path, tmp_path / "copy")
    return tmp_path / "copy"


def shard(folder: Path, index: int) -> Path:
    return folder / "shards" / f"shard-{index:06d}.safetensors"


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x10
    path.write_bytes(data)


@pytest.mark.parametrize("section", SECTIONS)
def test_one_flipped_bit_is_found(store: ActivationStore, copy: Path, section: str) -> None:
    lies = store._reader.shards[2].layout.sections[section]
    flip(shard(copy, 2), lies.start + lies.nbytes // 2)
    with pytest.raises(VestigeError, match=rf"'shard-000002.safetensors' is damaged: '{section}' does not match"):
        ActivationStore(copy).verify(progress=False)


def test_reading_in_order_finds_damage_before_it_hands_out_the_rows(store: ActivationStore, copy: Path) -> None:
    flip(shard(copy, 2), store._reader.shards[2].layout.sections["blocks.1.hook_resid_post"].start + 5)
    site = ActivationStore(copy).site("resid_post.1")
    assert len(site[0:200]) == 200
    for read in (lambda: site[150:250], lambda: list(site.batches(64)), site.to_numpy):
        with pytest.raises(VestigeError, match=r"'shard-000002.safetensors' is damaged"):
            read()
    # Other sites of the shard are not touched by it.
    assert len(ActivationStore(copy).site("mlp_post.0")[150:250]) == 100


def header_digit(path: Path) -> int:
    return path.read_bytes().index(b'"finite_rows/') + 60


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: os.truncate(shard(folder, 1), 5000), r"'shard-000001.safetensors' is damaged: it has 5000"),
        (lambda folder: os.truncate(shard(folder, 1), 3), r"'shard-000001.safetensors' is damaged: its header cannot"),
        (lambda folder: flip(shard(folder, 1), header_digit(shard(folder, 1))), r"'shard-000001.s.* is damaged"),
        (lambda folder: shard(folder, 1).unlink(), r"'shard-000001.safetensors' is missing"),
        (lambda folder: swap(shard(folder, 1), shard(folder, 3)), r"'shard-000001.safetensors' holds shard 3"),
        (lambda folder: shutil.copy(shard(folder, 0), shard(folder, 1)), r"'shard-000001.safetensors' holds shard 0"),
        (lambda folder: (folder / "shards" / "notes.txt").touch(), r"'notes.txt' in .* is not listed in the manifest"),
        (lambda folder: flip(folder / "manifest.json", 200), r"manifest.json' is damaged"),
        (lambda folder: (folder / "manifest.json").write_text("{"), r"manifest.json' is damaged"),
        (lambda folder: flip(folder / "spec.json", 300), r"spec.json' is damaged|belongs to another store"),
        (lambda folder: (folder / "spec.json").unlink(), r"is not an activation store: spec.json is missing"),
        (lambda folder: (folder / "manifest.json").unlink(), r"is not finished \(\d+ shards so far\)"),
    ],
    ids=[
        "truncated", "no header", "header", "missing", "reordered", "repeated", "foreign file", "manifest",
        "half a manifest", "spec", "no spec", "unfinished",
    ],
)  # fmt: skip
def test_a_damaged_store_says_what_is_wrong(copy: Path, harm: Callable[[Path], object], message: str) -> None:
    harm(copy)
    with pytest.raises(VestigeError, match=message) as caught:
        ActivationStore(copy).verify(progress=False)
    assert "\n" not in str(caught.value)


def swap(one: Path, other: Path) -> None:
    aside = one.with_suffix(".aside")
    one.rename(aside)
    other.rename(one)
    aside.rename(other)


def test_a_shard_of_another_store_is_foreign(copy: Path, tmp_path: Path) -> None:
    other = small_store(tmp_path / "other", dtype="int8", group_size=8)
    shutil.copy(shard(other.path, 1), shard(copy, 1))
    with pytest.raises(VestigeError, match=r"'shard-000001.safetensors' belongs to another store"):
        ActivationStore(copy)
    # A harvest does not delete what may be somebody's data.
    with pytest.raises(VestigeError, match=r"'shard-000001.safetensors' belongs to another store"):
        small_store(copy)


def test_shuffled_rows_are_checked_too(store: ActivationStore, copy: Path) -> None:
    flip(shard(copy, 2), store._reader.shards[2].layout.sections["blocks.1.hook_resid_post"].start + 5)
    site = ActivationStore(copy).site("resid_post.1")
    for batches in (site.batches(64, shuffle=0), site.as_data_provider(64)):
        with pytest.raises(VestigeError, match=r"'shard-000002.safetensors' is damaged"):
            next(iter(batches))


def test_what_may_be_whole_is_never_deleted(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = files(copy)
    swap(shard(copy, 1), shard(copy, 3))
    with pytest.raises(VestigeError, match=r"'shard-000001.safetensors' holds shard 3"):
        small_store(copy)
    swap(shard(copy, 1), shard(copy, 3))
    opened = Path.open

    def stale(self: Path, *arguments: object, **options: object) -> object:
        if self.name == "shard-000002.safetensors":
            raise OSError(116, "Stale file handle")
        return opened(self, *arguments, **options)  # type: ignore[call-overload]

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", stale)
        with pytest.raises(VestigeError, match=r"'shard-000002.safetensors' cannot be read: Stale file handle"):
            small_store(copy)
    assert {name: digest for name, digest in files(copy).items() if "orders" not in name} == {
        name: digest for name, digest in before.items() if "orders" not in name
    }


def test_a_damaged_manifest_is_made_again_from_the_shards(store: ActivationStore, copy: Path) -> None:
    flip(copy / "manifest.json", 200)
    small_store(copy)
    assert (copy / "manifest.json").read_bytes() == (store.path / "manifest.json").read_bytes()


def test_more_shards_than_may_be_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hooked.store.rows._MAPS", 3)
    store = small_store(tmp_path / "store", shard_rows=20)
    site, before = store.site("z.1"), len(os.listdir("/proc/self/fd"))
    assert len(store._reader.shards) > 20
    index = torch.cat([batch.index for batch in site.batches(100, shuffle=0)])
    assert torch.cat([batch.acts for batch in site.batches(100, shuffle=0)]).equal(site[:][index])
    assert len(os.listdir("/proc/self/fd")) <= before + 3


@pytest.mark.parametrize(("field", "value"), [("shards", None), ("documents", "many"), ("rows", 10**12), ("about", 3)])
def test_a_forged_manifest(copy: Path, field: str, value: object) -> None:
    content = json.loads((copy / "manifest.json").read_text())
    del content["digest"]
    publish(copy, {**content, field: value})
    with pytest.raises(VestigeError, match=r"manifest.json' is damaged"):
        ActivationStore(copy)


@pytest.mark.parametrize("harm", ["flip", "truncate", "remove"])
def test_harvesting_again_mends_a_damaged_store(store: ActivationStore, copy: Path, harm: str) -> None:
    path = shard(copy, 2)
    if harm == "flip":
        flip(path, 5000)
    elif harm == "truncate":
        os.truncate(path, 5000)
    else:
        path.unlink()
    small_store(copy).verify(progress=False)
    assert files(copy / "shards") == files(store.path / "shards")
    assert (copy / "manifest.json").read_bytes() == (store.path / "manifest.json").read_bytes()


def test_no_pickle_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.pt").write_bytes(b"")
    with pytest.raises(VestigeError, match=r"rows.pt' may hold pickled objects, which are never read"):
        small_store(tmp_path / "store", tmp_path / "rows.pt")


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("all my work")
    with pytest.raises(VestigeError, match=r"holds other files \('thesis.tex'\); choose a new folder"):
        small_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "file").touch()
    with pytest.raises(VestigeError, match="file' is a file; give the path of a folder"):
        small_store(tmp_path / "file")


def test_the_second_writer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    with locked(tmp_path / "store"), pytest.raises(VestigeError, match="is being written by another harvest"):
        small_store(tmp_path / "store")
    assert len(small_store(tmp_path / "store")) > 0


def test_two_writers_in_two_processes(tmp_path: Path) -> None:
    started, go_on = threading.Event(), threading.Event()

    def slow() -> Iterator[str]:
        yield from documents(5)
        started.set()
        go_on.wait(200)
        yield from documents(5)

    first = threading.Thread(target=small_store, args=(tmp_path / "store", slow()))
    first.start()
    assert started.wait(30)
    # A process of its own rather than a fork: a copy of this one could wait for ever for what another thread holds.
    code = (
        "import sys, pathlib; from tests.hooked.store.small import small_store; small_store(pathlib.Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [*warm.python(), "-c", code, str(tmp_path / "store")],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    go_on.set()
    first.join()
    assert done.returncode == 1
    assert "another harvest" in done.stderr
    assert ActivationStore(tmp_path / "store").documents == 10


def test_a_disk_without_room_is_refused_before_the_first_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=20_000))
    with pytest.raises(VestigeError, match=r"GB are needed in .*, 0.00 GB are free; store fewer sites or tokens"):
        small_store(tmp_path / "store")
    assert not list((tmp_path / "store" / "shards").iterdir())


def test_a_disk_that_fills_up_leaves_a_store_that_can_be_finished(
    store: ActivationStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0

    def write(file: int, data: memoryview, at: int) -> None:
        nonlocal written
        written += len(data)
        if written > 60_000:
            raise OSError(28, "No space left on device")
        done = os.pwrite(file, data, at)
        assert done == len(data)

    with monkeypatch.context() as patch:
        patch.setattr("hooked.store.shard_writer._write_all", write)
        with pytest.raises(VestigeError, match="cannot be written: No space left on device; what is finished stays"):
            small_store(tmp_path / "store")
    left = [path.name for path in (tmp_path / "store" / "shards").iterdir()]
    assert left
    assert not [name for name in left if name.endswith(".part")]
    small_store(tmp_path / "store")
    assert files(tmp_path / "store" / "shards") == files(store.path / "shards")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere, so nothing is read-only to it")
def test_a_read_only_folder(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o500)
    with pytest.raises(VestigeError, match="cannot be written: Permission denied"):
        small_store(tmp_path / "store")


def test_a_read_only_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(VestigeError, match="cannot be written: Read-only file system"):
        small_store(tmp_path / "store")


def test_an_error_of_the_writer_reaches_the_caller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: ShardWriter, totals: object) -> str:
        raise RuntimeError("a bug in the writer")

    monkeypatch.setattr(hooked.store.writer.ShardWriter, "finish", fail)
    before = threading.active_count()
    with pytest.raises((RuntimeError, VestigeError), match="a bug in the writer"):
        small_store(tmp_path / "store")
    assert threading.active_count() == before


def test_a_failing_batch_is_named(tmp_path: Path, rng: torch.Generator) -> None:
    ids = random_ids(rng, 20, 8).tolist()
    ids[13][4] = 5000
    with pytest.raises(VestigeError, match=r"batch \d+ \(documents? .*\): token id 5000 has no embedding"):
        small_store(tmp_path / "store", ids, sites=SITES[0], batch_tokens=32)
    with pytest.raises(VestigeError, match=r"batch 13 \(document 13\): token id 5000 has no embedding"):
        small_store(tmp_path / "other", ids, sites=SITES[0], batch_tokens=1)
