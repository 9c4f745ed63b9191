"""The Ray engine gives the bytes of a local run, whoever dies on the way."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from hooked import HookedModel, Intervention, Spec, VestigeError
from hooked.harvest import harvest
from hooked.harvest.on_ray import tasks
from hooked.harvest.plan import Plan, identity, plan
from hooked.harvest.ray_connection import RayOptions, connected
from hooked.harvest.ray_mailbox import mailbox_class
from hooked.harvest.ray_worker import Job
from hooked.harvest.record import pieces
from hooked.harvest.shipping import ship
from hooked.harvest.steps import Step
from hooked.hooks import HookContext
from tests.tiny import D_VOCAB, tiny_model

SITES = ["blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"]
SHARD_ROWS = 200


@dataclass(frozen=True)
class Scale:
    """An edit with a data form."""

    factor: float

    def __call__(self, activation: Tensor, /, hook: HookContext) -> Tensor:
        return activation * self.factor


class DyingNorm(LlamaRMSNorm):  # type: ignore[misc]
    """A part of the model that notes who runs it, and in another process than the test's kills one of them."""

    folder: Path
    own: int
    passes: int

    def forward(self, hidden_states: Tensor) -> Any:
        if os.getpid() != self.own:
            self.passes += 1
            (self.folder / f"ran-{os.getpid()}").touch()
            if self.passes == 2 and not (self.folder / "killed").exists():
                (self.folder / "killed").write_text(str(os.getpid()))
                os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(hidden_states)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A Ray of our own with two CPUs, on the loopback device only."""
    ray = pytest.importorskip("ray")
    with pytest.MonkeyPatch.context() as patch:
        # Ray takes 127.0.0.1 for its address where it has no clusters, and replaces it anywhere else.
        patch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_BACKEND_LOG_LEVEL", "fatal")
        patch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=100 << 20,
        )
        yield ray
        ray.shutdown()


@pytest.fixture
def documents(rng: torch.Generator) -> list[Tensor]:
    """Documents of 1 to 59 tokens: about 1,500 rows, so eight shards."""
    lengths = torch.randint(1, 60, (50,), generator=rng)
    return [torch.randint(3, D_VOCAB, (int(length),), generator=rng) for length in lengths]


@pytest.fixture
def local(documents: list[Tensor], tmp_path: Path) -> dict[str, str]:
    """Checksums of what a local run writes."""
    store = _harvest(tiny_model(), documents, tmp_path / "local")
    assert len(store) > 6 * SHARD_ROWS
    return _checksums(tmp_path / "local")


def _harvest(model: HookedModel, documents: Any, path: Path, **changes: Any) -> Any:
    arguments = {"sites": SITES, "batch_tokens": 150, "shard_rows": SHARD_ROWS, "dtype": "float32", **changes}
    return harvest(model, documents, path=path, progress=False, **arguments)


def _checksums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _shards(folder: Path) -> set[str]:
    return {path.name for path in (folder / "shards").iterdir()}


# Slow, because every process of a cluster imports torch.
@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_two_workers_finish_what_a_local_run_began_though_one_is_killed(
    documents: list[Tensor], local: dict[str, str], tmp_path: Path
) -> None:
    def interrupted() -> Iterator[Tensor]:
        yield from documents[:25]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        _harvest(tiny_model(), interrupted(), tmp_path / "ray")
    begun = _shards(tmp_path / "ray")

    model, notes = tiny_model(), tmp_path / "notes"
    notes.mkdir()
    norm: Any = model.model.get_submodule("model.layers.0.input_layernorm")
    norm.__class__ = DyingNorm
    norm.folder, norm.own, norm.passes = notes, os.getpid(), 0
    _harvest(model, iter(documents), tmp_path / "ray", engine="ray", workers=2)
    assert _shards(tmp_path / "ray") > begun
    dead = int((notes / "killed").read_text())
    others = {int(path.name.removeprefix("ran-")) for path in notes.glob("ran-*")} - {dead}
    assert not Path(f"/proc/{dead}/exe").exists()
    assert len(others) >= 1
    assert _checksums(tmp_path / "ray") == local


# Slow, because every process of a cluster imports torch.
@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_a_batch_that_fails_stops_the_harvest_and_a_local_run_goes_on_from_there(
    documents: list[Tensor], local: dict[str, str], tmp_path: Path
) -> None:
    # The shortest document is in the last batch of its window, and so in the last shard.
    shortest = min(range(len(documents)), key=lambda i: len(documents[i]))
    broken = [torch.full_like(d, D_VOCAB) if i == shortest else d for i, d in enumerate(documents)]
    message = rf"batch \d+ \(documents \d+ to \d+\): token id {D_VOCAB} has no embedding: .*ids 0 to {D_VOCAB - 1}$"
    with pytest.raises(VestigeError, match=message):
        _harvest(tiny_model(), broken, tmp_path / "ray", engine="ray")
    written = {path.name for path in (tmp_path / "ray" / "shards").glob("shard-*")}
    assert "shard-000000.safetensors" in written
    assert len(written) < len(list((tmp_path / "local" / "shards").iterdir()))
    _harvest(tiny_model(), documents, tmp_path / "ray")
    assert _checksums(tmp_path / "ray") == local


def test_a_document_that_cannot_be_read_is_named(documents: list[Tensor], tmp_path: Path) -> None:
    with pytest.raises(VestigeError, match="document 50 is neither text nor token ids but NoneType"):
        _harvest(tiny_model(), [*documents, None], tmp_path / "ray", engine="ray")


def test_a_finished_store_needs_no_worker(documents: list[Tensor], tmp_path: Path) -> None:
    _harvest(tiny_model(), documents, tmp_path / "store")
    before = _checksums(tmp_path / "store")
    store = _harvest(tiny_model(), documents, tmp_path / "store", engine="ray", address="127.0.0.1:1")
    assert _checksums(tmp_path / "store") == before
    assert len(store) == sum(map(len, documents))


def test_every_missing_row_is_in_the_task_of_its_shard(rng: torch.Generator) -> None:
    batches = [_Rows(int(n)) for n in torch.randint(0, 25, (30,), generator=rng)]
    steps, first = [], 0
    for batch in batches:
        cut = pieces(first, len(batch), shard_rows=10)
        steps.append(Step(batch, first, tuple(piece for piece in cut if piece.shard % 3)))  # type: ignore[arg-type]
        first += len(batch)
    found = list(tasks(steps, 10))
    assert [task.shard for task in found] == [shard for shard in range(-(-first // 10)) if shard % 3]
    for task in found:
        rows = [step.first_row + i for step in task.steps for p in step.missing for i in range(p.start, p.stop)]
        assert rows == list(range(10 * task.shard, min(10 * task.shard + 10, first)))
        assert task.rows == len(rows)
        assert {piece.shard for step in task.steps for piece in step.missing} == {task.shard}


def test_tasks_are_cut_as_the_steps_come() -> None:
    seen: list[int] = []

    def steps() -> Iterator[Step]:
        for first in range(0, 100, 4):
            seen.append(first)
            yield Step(_Rows(4), first, tuple(pieces(first, 4, shard_rows=10)))  # type: ignore[arg-type]

    waiting = tasks(steps(), 10)
    assert next(waiting).shard == 0
    assert seen == [0, 4, 8]


@dataclass(frozen=True)
class _Rows:
    """Stands for a batch of so many rows."""

    rows: int

    def __len__(self) -> int:
        return self.rows


def test_a_shipped_model_is_the_model(ray: Any) -> None:
    model = tiny_model("gpt2", dtype=torch.bfloat16)
    received = ray.get(ray.put(ship(model))).unpack()
    assert identity(received) == identity(model)
    assert received.model.lm_head.weight is received.model.transformer.wte.weight
    for name, value in model.state().items():
        assert received.state()[name].stride() == value.stride()
        assert received.state()[name].data_ptr() != value.data_ptr()


def test_a_shipped_view_computes_what_the_view_does(ray: Any, ids: Tensor) -> None:
    model = tiny_model()
    weights = model.value_patch({(1, 3): torch.ones(model.d_model)})
    edited = Intervention(Spec("scale", "suppression"), weights=weights, edits={"resid_post.0": Scale(1.5)})
    before = model.logits(ids)
    with edited.applied(model) as view:
        received = ray.get(ray.put(ship(view))).unpack()
        assert identity(received) == identity(view)
        assert torch.equal(received.logits(ids), view.logits(ids))
    assert not torch.equal(received.logits(ids), before)
    assert torch.equal(model.logits(ids), before)


def test_the_mailbox_needs_no_torch(ray: Any) -> None:
    class Asked(mailbox_class()):  # type: ignore[misc]
        async def has(self, name: str) -> bool:
            return name in sys.modules

    mailbox = ray.remote(num_cpus=0)(Asked).remote()
    assert [ray.get(mailbox.has.remote(name)) for name in ("asyncio", "torch", "hooked")] == [True, False, False]


def test_what_exists_in_this_process_only_is_refused(tmp_path: Path) -> None:
    model = tiny_model()
    spec = Spec("mine", "suppression")
    with (
        Intervention(spec, edits={"resid_post.0": lambda x, hook: x}).applied(model) as view,
        pytest.raises(VestigeError, match="the intervention 'mine' holds an ordinary function, which exists in this"),
    ):
        _harvest(view, [torch.tensor([3])], tmp_path / "a", engine="ray")
    with (
        model.hooks([("resid_post.0", lambda x, hook: x)]),
        pytest.raises(VestigeError, match=r"HookContext\('blocks.0.hook_resid_post'\)\) exists in this process only"),
    ):
        _harvest(model, [torch.tensor([3])], tmp_path / "b", engine="ray")


def test_a_worker_that_would_compute_something_else_refuses(tmp_path: Path) -> None:
    documents = [torch.tensor([3, 4])]
    _harvest(tiny_model(), documents, tmp_path / "store")
    settled = _plan(tiny_model())
    Job.of(tiny_model(), settled, tmp_path / "store", 1 << 20).model()
    other = Job.of(tiny_model(seed=1), settled, tmp_path / "store", 1 << 20)
    with pytest.raises(VestigeError, match=r"a Ray worker would compute something else .*\(model.weights was "):
        other.model()
    with pytest.raises(VestigeError, match="a Ray worker does not see the store"):
        Job.of(tiny_model(), settled, tmp_path / "elsewhere", 1 << 20).model()


def _plan(model: HookedModel) -> Plan:
    return plan(
        model,
        sites=SITES,
        dtype="float32",
        group_size=None,
        packing="documents",
        context_size=None,
        batch_tokens=150,
        max_tokens=None,
        exclude_special=True,
        prepend_bos=True,
        shard_rows=SHARD_ROWS,
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"worker": 2}, "harvest has no argument 'worker' with engine='ray'; there are workers, num_gpus, num_cpus, a"),
        ({"workers": 0}, "workers is at least 1, got 0"),
        ({"num_cpus": -1}, "num_cpus is at least 0, got -1"),
        ({"num_gpus": 1}, "workers compute where the model is, on 'cpu', and num_gpus is 1"),
        ({"address": "ray://head:10001"}, "address is host:port of a cluster"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(VestigeError, match=message):
        _harvest(tiny_model(), [torch.tensor([3])], tmp_path / "store", engine="ray", **options)


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(VestigeError, match=r"engine='ray' needs Ray; install it with pip install 'vestige\[ray\]'$"):
        _harvest(tiny_model(), [torch.tensor([3])], tmp_path / "store", engine="ray")


class _FakeRay:
    """What `connected` uses of Ray.

    Args:
        running: Address of a cluster on this machine.
        connected: Whether this process uses it already.
    """

    def __init__(self, running: str | None, *, connected: bool = False) -> None:
        self.running, self.connected, self.calls = running, connected, list[str]()

    def is_initialized(self) -> bool:
        return self.connected

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(gcs_address=self.running)

    def init(self, *, address: str, **_: Any) -> None:
        self.calls.append(f"init {address}")
        if address != "local" and (self.running is None or address not in ("auto", self.running)):
            raise ConnectionError
        self.connected = True

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": 2.0}

    def shutdown(self) -> None:
        self.calls.append("shutdown")


@pytest.fixture
def everyone_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Addresses of clusters that are not real are reached."""
    # By name, since `hooked.harvest` is the function.
    monkeypatch.setattr(import_module("hooked.harvest.ray_connection"), "_refusal", lambda address: None)


@pytest.mark.parametrize("address", ["127.0.0.1:9", "127.0.0.1:99999", "127.0.0.1", "127.0.0.1:port"])
def test_an_address_where_nobody_listens_is_said_at_once(address: str) -> None:
    ray = _FakeRay(address)
    refused = pytest.raises(VestigeError, match=f"no Ray cluster answers at '{address}'")
    with refused, connected(ray, RayOptions(address=address)):
        pass
    assert ray.calls in ([], ["shutdown"])


@pytest.mark.parametrize(
    ("ray", "address", "calls"),
    [
        (_FakeRay("a:1", connected=True), None, []),
        (_FakeRay("a:1", connected=True), "a:1", []),
        (_FakeRay("a:1"), None, ["init auto", "shutdown"]),
        (_FakeRay("a:1"), "a:1", ["init a:1", "shutdown"]),
        (_FakeRay(None), None, ["init auto", "init local", "shutdown"]),
    ],
)
@pytest.mark.usefixtures("everyone_answers")
def test_only_what_was_started_is_shut_down(ray: Any, address: str | None, calls: list[str]) -> None:
    before = dict(os.environ)
    with connected(ray, RayOptions(address=address)):
        assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    assert ray.calls == calls
    assert dict(os.environ) == before


@pytest.mark.parametrize(
    ("ray", "options", "message"),
    [
        (_FakeRay("a:1", connected=True), {"address": "b:1"}, "this process uses another Ray than 'b:1' already"),
        (_FakeRay("a:1"), {"address": "b:1"}, "no Ray cluster answers at 'b:1'"),
        (_FakeRay(None), {"num_gpus": 1}, "a worker needs 1 GPUs, Ray finds 0 on this machine"),
    ],
)
@pytest.mark.usefixtures("everyone_answers")
def test_a_cluster_that_is_not_there_is_named(ray: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(VestigeError, match=message), connected(ray, RayOptions(**options)):
        pass
