"""Attacks as tasks of Ray: the results of this process, whatever a subject is and in which order tasks end."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hooked import HookedModel, Intervention, Spec, UnlearnData, VestigeError
from interventions import steer
from tests.hooked.harvest.test_on_ray import ray  # noqa: F401
from vestige import attack, organism
from vestige.report import to_json

NAMES = ("reworded", "stripped", "steering", "quantisation")


@pytest.fixture(scope="module")
def model() -> HookedModel:
    """The organism that knows everything."""
    return HookedModel.from_pretrained(organism.organism_path("full"), dtype="float32")


def _weights(model: HookedModel) -> Intervention:
    rng = torch.Generator().manual_seed(0)
    rows = {(1, j): 2 * torch.randn(model.d_model, generator=rng) for j in range(40)}
    return Intervention(Spec("rows", "removal"), weights=model.value_patch(rows))


def _edit(model: HookedModel) -> Intervention:
    direction = torch.randn(model.d_model, generator=torch.Generator().manual_seed(1))
    return steer(direction, sites=["resid_post.2"], coefficient=2.0)


def _report(model: HookedModel, unlearned: Any, **settings: Any) -> Mapping[str, Any]:
    data = organism.organism_data()
    few = UnlearnData(data.forget[:4], data.retain[:8])
    never = organism.organism_path("never")
    return to_json(
        attack(model, unlearned=unlearned, data=few, never=never, suite=None, names=NAMES, progress=False, **settings)
    )


@pytest.fixture(scope="module")
def unlearned(model: HookedModel) -> list[Any]:
    """Changed weights, changed weights with an edit, and a folder."""
    return [_weights(model), _weights(model) + _edit(model), organism.organism_path("retain")]


@pytest.fixture(scope="module")
def here(model: HookedModel, unlearned: list[Any]) -> Mapping[str, Any]:
    """What this process finds."""
    return _report(model, unlearned)


# Slow, because every process of a cluster imports torch.
@pytest.mark.slow
@pytest.mark.usefixtures("ray")
def test_a_cluster_gives_the_results_of_this_process(
    model: HookedModel, unlearned: list[Any], here: Mapping[str, Any]
) -> None:
    assert _report(model, unlearned, engine="ray", workers=1) == here
    # Subjects and attacks are told apart by what they give.
    assert len({row["estimate"] for row in here["attacks"]}) > len(NAMES) * 3


class DiedError(Exception):
    """What Ray raises where a worker is gone."""


class Cluster:
    """Ray as far as it is used here, in this process: values are copied, and the last task ends first."""

    exceptions = SimpleNamespace(RayTaskError=ArithmeticError, RayError=DiedError)

    def __init__(self) -> None:
        self.waiting: dict[int, Callable[[], Any]] = {}
        self.made = self.most = 0

    def is_initialized(self) -> bool:
        return True

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(gcs_address="here")

    def put(self, value: Any) -> Callable[[], Any]:
        kept = copy.deepcopy(value)
        return lambda: copy.deepcopy(kept)

    def remote(self, **_: Any) -> Callable[[Any], Any]:
        def submit(function: Any, shared: Any, sent: Any, *rest: Any) -> int:
            self.made += 1
            self.waiting[self.made] = lambda: function(shared(), sent(), *rest)
            self.most = max(self.most, len(self.waiting))
            return self.made

        return lambda function: SimpleNamespace(remote=partial(submit, function))

    def wait(self, references: list[int], *, num_returns: int) -> tuple[list[int], list[int]]:
        return references[-num_returns:], references[:-num_returns]

    def get(self, reference: int) -> Any:
        return self.waiting.pop(reference)()

    def cancel(self, reference: int) -> None:
        del self.waiting[reference]


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """A cluster that is no other process."""
    cluster = Cluster()
    for module in ("vestige.attacks.on_ray", "vestige.attacking"):
        monkeypatch.setattr(f"{module}.imported", lambda: cluster)
    return cluster


def test_tasks_may_end_in_any_order_and_no_more_are_begun_than_there_are_workers(
    cluster: Cluster, model: HookedModel, unlearned: list[Any], here: Mapping[str, Any]
) -> None:
    before = {name: tensor.clone() for name, tensor in model.state().items()}
    assert _report(model, unlearned, engine="ray", workers=3) == here
    assert cluster.most == 3
    assert cluster.made == 5 * (1 + len(NAMES))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state().items())


def test_a_subject_that_cannot_be_attacked_is_named(cluster: Cluster, model: HookedModel) -> None:
    here_only = Intervention(Spec("mine", "suppression"), edits={"resid_post.1": lambda acts, hook: acts})
    with pytest.raises(VestigeError, match=r"subject 'mine': .* holds an ordinary function, .* use engine='local'"):
        _report(model, [here_only], engine="ray")
    narrow = steer(torch.ones(7), sites=["resid_post.2"])
    with pytest.raises(VestigeError, match=r"subject 'steer' does not fit '.*full': .*\(128\).*\(7\)"):
        _report(model, [narrow], engine="ray")
    with pytest.raises(VestigeError, match="engine is one of local, ray, got 'dask'"):
        _report(model, [], engine="dask")
    with pytest.raises(VestigeError, match="workers is at least 1"):
        _report(model, [], engine="ray", workers=0)


def test_a_worker_that_dies_is_said_in_one_line_and_the_rest_is_cancelled(
    cluster: Cluster, model: HookedModel, unlearned: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(reference: int) -> Any:
        del cluster.waiting[reference]
        raise DiedError("killed for memory\nand a log")

    monkeypatch.setattr(cluster, "get", dies)
    with pytest.raises(VestigeError, match=r"gave up attack 'plain' on .*dying \(killed for memory\); .* workers"):
        _report(model, unlearned, engine="ray", workers=1)
    assert cluster.waiting == {}
