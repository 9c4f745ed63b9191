"""Harvests that were interrupted, at any instant and by anything, end with the bytes of one that was not."""

from __future__ import annotations

import gc
import importlib
import os
import random
import signal
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from hooked import HookContext, HookedModel, Intervention, Spec, VestigeError
from hooked.harvest.packing import Batch
from hooked.harvest.record import RowRecorder
from tests.hooked.store.small import documents, files, small_store
from tests.tiny import tiny_model, tiny_tokenizer

# By name, since `hooked.harvest` is the function.
CORPUS, PLAN, STEPS = (importlib.import_module(f"hooked.harvest.{name}") for name in ("corpus", "plan", "steps"))
FORMATS: list[dict[str, Any]] = [
    {"dtype": "float32"},
    {"dtype": "int8"},
    {"dtype": "int8", "group_size": 8},
    {"dtype": "fp8"},
    {"dtype": "bf16", "packing": "contexts", "context_size": 32},
]
KILLS_PER_FORMAT = 45


def run_and_kill(folder: Path, after: float, settings: dict[str, Any]) -> bool:
    """Harvest in a child that is killed after some seconds; return whether it was killed before it ended."""
    child = os.fork()
    if child == 0:
        # Else a collection would copy all that the parent's tests have left.
        gc.freeze()
        code = 1
        try:
            small_store(folder, **settings)
            code = 0
        finally:
            os._exit(code)
    time.sleep(after)
    os.kill(child, signal.SIGKILL)
    ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert ended in (0, -signal.SIGKILL)
    return ended == -signal.SIGKILL


# Slow, because 45 kills per format are what makes every instant likely to be hit.
@pytest.mark.slow
@pytest.mark.parametrize("settings", FORMATS, ids=lambda settings: "-".join(map(str, settings.values())))
def test_a_harvest_killed_at_any_instant_ends_with_the_same_bytes(tmp_path: Path, settings: dict[str, Any]) -> None:
    settings = {"shard_rows": 40, "batch_tokens": 64, **settings}
    begun = time.perf_counter()
    # Once to compile, once for the time that a run takes.
    small_store(tmp_path / "warm", **settings)
    begun = time.perf_counter()
    wanted = files(small_store(tmp_path / "whole", **settings).path)
    duration = time.perf_counter() - begun
    chance, kills, stores, interrupted = random.Random(0), 0, 0, 0
    while kills < KILLS_PER_FORMAT:
        folder = tmp_path / f"store-{stores}"
        stores += 1
        kills_here = 0
        # Early instants again and again, so that one store is killed several times before it is complete.
        while run_and_kill(folder, chance.uniform(0, duration * 1.05), settings):
            kills_here += 1
            if kills_here == 6:
                break
        kills += kills_here
        interrupted += bool((folder / "shards").exists() and list((folder / "shards").iterdir()))
        small_store(folder, **settings)
        assert files(folder) == wanted, f"after {kills_here} kills"
    assert kills >= KILLS_PER_FORMAT
    # The kills fell among the shards, not only before the first.
    assert interrupted > stores // 2


class Failing:
    """Calls of the system of which one, counted from 0, fails."""

    NAMES = ("replace", "fsync", "pwrite", "ftruncate")

    def __init__(self, number: int) -> None:
        self.number, self.calls = number, 0

    def patch(self, patch: pytest.MonkeyPatch) -> None:
        for name in self.NAMES:
            patch.setattr(os, name, self._call(getattr(os, name)))

    def _call(self, real: Any) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls += 1
            if self.calls == self.number + 1:
                raise OSError(5, "Input/output error")
            return real(*arguments)

        return call

    @property
    def failed(self) -> bool:
        return self.calls > self.number


def test_every_call_that_changes_the_disk_may_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"sites": "resid_post.1", "shard_rows": 60, "corpus": documents(6)}
    wanted = files(small_store(tmp_path / "whole", **settings).path)
    for number in count():
        folder, failing = tmp_path / str(number), Failing(number)
        with monkeypatch.context() as patch:
            failing.patch(patch)
            error = None
            try:
                small_store(folder, **settings)
            except VestigeError as raised:
                error = str(raised)
        if not failing.failed:
            break
        assert error is not None
        assert "Input/output error" in error
        assert files(small_store(folder, **settings).path) == wanted
    assert number > 20


def test_the_same_call_on_a_finished_store_returns_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = small_store(tmp_path / "store")
    before = files(first.path)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("nothing needs to be computed")

    monkeypatch.setattr(STEPS, "forward", refuse)
    assert small_store(tmp_path / "store").digest == first.digest
    assert files(first.path) == before


def test_only_what_is_missing_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = documents(120)

    class Stop(Exception):
        pass

    def half() -> Iterator[str]:
        yield from texts[:90]
        raise Stop

    monkeypatch.setattr(CORPUS, "_TOGETHER", 4)
    whole = small_store(tmp_path / "whole", texts, batch_tokens=32)
    with pytest.raises(Stop):
        small_store(tmp_path / "store", half(), batch_tokens=32)
    done = len(list((tmp_path / "store" / "shards").glob("shard-*")))
    assert 0 < done < len(list((whole.path / "shards").iterdir()))
    ran = []
    forward = STEPS.forward

    def counted(model: HookedModel, batch: Batch, recorder: RowRecorder) -> None:
        ran.append(len(batch))
        forward(model, batch, recorder)

    monkeypatch.setattr(STEPS, "forward", counted)
    store = small_store(tmp_path / "store", texts, batch_tokens=32)
    assert files(store.path) == files(whole.path)
    assert 0 < sum(ran) <= len(store) - done * 100 + 64


CHANGES: dict[str, dict[str, Any]] = {
    "sites": {"sites": "resid_post.0"},
    "dtype": {"dtype": "float32"},
    "group_size": {"group_size": 8},
    "packing": {"packing": "contexts"},
    "context_size": {"context_size": 32},
    "batch_tokens": {"batch_tokens": 128},
    "max_tokens": {"max_tokens": 300},
    "excluded_tokens": {"exclude_special": False},
    "prepend_bos": {"prepend_bos": False},
    "shard_rows": {"shard_rows": 50},
    "model.weights": {"model": tiny_model(seed=1)},
    "model.class": {"model": tiny_model("gpt2")},
    "model.attention": {"model": tiny_model(attn="eager")},
    "model.dtype": {"model": tiny_model(dtype=torch.bfloat16)},
    "tokenizer": {"model": tiny_model(tokenizer=tiny_tokenizer(eos=False))},
    "model.config": {"model": tiny_model(rms_norm_eps=1e-3)},
}


@pytest.mark.parametrize("what", CHANGES)
def test_another_argument_is_another_store_and_is_named(what: str, tmp_path: Path) -> None:
    store = small_store(tmp_path / "store")
    before = files(store.path)
    with pytest.raises(
        VestigeError, match=rf"was begun with other arguments \(.*{what}.* was .* and is now "
    ) as caught:
        small_store(tmp_path / "store", **CHANGES[what])
    assert "\n" not in str(caught.value)
    assert {name: digest for name, digest in files(store.path).items() if name != ".lock"} == before
    assert small_store(tmp_path / "other", **CHANGES[what]).address != store.address


def test_how_the_tokenizer_was_used_last_does_not_matter(tmp_path: Path) -> None:
    model = tiny_model()
    first = small_store(tmp_path / "store", model=model)
    model.tokenizer(documents(3), padding=True, truncation=True, max_length=9)
    assert small_store(tmp_path / "store", model=model).digest == first.digest


def test_an_interruption_says_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> Iterator[str]:
        yield from documents(80)
        raise KeyboardInterrupt

    monkeypatch.setattr(CORPUS, "_TOGETHER", 4)
    with pytest.raises(
        KeyboardInterrupt, match=r"[1-9]\d* shards of .* are finished; the same call goes on from there"
    ):
        small_store(tmp_path / "store", interrupted(), batch_tokens=32)


def test_arguments_of_a_harvest_that_stored_nothing_bind_nobody(tmp_path: Path) -> None:
    with pytest.raises(VestigeError, match="has no embedding"):
        small_store(tmp_path / "store", [[5000]], batch_tokens=128)
    assert (tmp_path / "store" / "spec.json").exists()
    wanted = small_store(tmp_path / "other")
    assert files(small_store(tmp_path / "store").path) == files(wanted.path)


def test_another_version_of_the_code_is_another_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_store(tmp_path / "store")
    monkeypatch.setattr(PLAN, "CODE", 2)
    with pytest.raises(VestigeError, match=r"code.harvest was 1 and is now 2"):
        small_store(tmp_path / "store")


def test_another_corpus_is_refused(tmp_path: Path) -> None:
    texts = documents()
    store = small_store(tmp_path / "store", texts)
    changed = [*texts[:5], texts[5] + " t9", *texts[6:]]
    for corpus in (changed, texts[:-10], texts[::-1]):
        with pytest.raises(VestigeError, match="was begun with another corpus: "):
            small_store(tmp_path / "store", corpus)
    assert small_store(tmp_path / "other", changed).address != store.address
    longer = [*texts, "t5 t6 t7"]
    with pytest.raises(VestigeError, match="was begun with another corpus: "):
        small_store(tmp_path / "store", longer)


def test_an_edit_without_content_is_never_taken_for_another(tmp_path: Path) -> None:
    def edit(activation: torch.Tensor, hook: HookContext) -> torch.Tensor:
        return activation + 1

    model = tiny_model()
    with Intervention(Spec("edit", intent="attack"), edits={"resid_post.0": edit}).applied(model) as view:
        small_store(tmp_path / "store", model=view)
        with pytest.raises(VestigeError, match="was begun with other arguments"):
            small_store(tmp_path / "store", model=view)


def test_the_address_is_the_same_in_another_folder_and_under_another_name(tmp_path: Path) -> None:
    model = tiny_model()
    one = small_store(tmp_path / "one", model=model)
    model.config._name_or_path = "renamed"
    assert small_store(tmp_path / "two", model=model).address == one.address


def test_a_hidden_bar_takes_no_lock_that_a_killed_process_could_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    from hooked import progress

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("tqdm takes a lock that forked processes share")

    monkeypatch.setattr(progress, "tqdm", fail)
    with progress.bar(10, what="work", show=False) as shown:
        shown.update(3)
        shown.note("so far")
    monkeypatch.setattr(progress, "_watched", lambda: True)
    with pytest.raises(AssertionError, match="forked processes"), progress.bar(10, what="work", show=True):
        pass
