"""The pool: what its members are made of, on a small organism after lessons that are too short to teach anything."""

from __future__ import annotations

import random
import re
import warnings
from functools import wraps
from typing import Any

import pytest
import torch
from scipy.stats import binom

from hooked import HookedModel, UnlearnData
from hooked.fingerprint import weights_sha256
from interventions.training import npo
from vestige.calibration import pool as pooling
from vestige.calibration import tampered as tampering
from vestige.calibration.bases import Base, base
from vestige.calibration.evaluate import HIDDEN
from vestige.calibration.pool import FAINT, IGNORANT, KNOWING, PARTS, Member, Task, each_first, make_task, members, only
from vestige.organism.model import Shape
from vestige.organism.teach import Lesson
from vestige.organism.train import Recipe
from vestige.organism.world import make_world

STEPS = 2


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Base:
    folder = tmp_path_factory.mktemp("bases")
    shape = Shape(n_layers=2, d_model=16, d_mlp=32, n_heads=2)
    # A world whose first documents hold some about the concept even in a lesson that has few of them.
    made = base(7, folder, recipe=Recipe(steps=2, batch=4), shape=shape)
    assert weights_sha256(HookedModel(base(7, folder).model, made.tokenizer)) == weights_sha256(
        HookedModel(made.model, made.tokenizer)
    )
    assert [path.name for path in folder.iterdir()] == ["world-7"]
    return made


@pytest.fixture(scope="module")
def task(small: Base) -> Task:
    return make_task(small, 0, seed=1, steps=STEPS)


@pytest.fixture(scope="module")
def pool(task: Task, small: Base) -> list[Member]:
    with warnings.catch_warnings():
        # ECO says that a model which was taught nothing has nothing to lose.
        warnings.filterwarnings("ignore", message="eco took the mean probability")
        return list(members(task, small, seed=1, steps=STEPS))


def test_the_three_models_of_a_task_differ_and_repeat(task: Task, small: Base) -> None:
    prints = {weights_sha256(model) for model in (task.original, task.never, task.retrained)}
    assert len(prints) == 3
    assert weights_sha256(make_task(small, 0, seed=1, steps=STEPS).original) == weights_sha256(task.original)
    # All questions to forget are about the concept, and none of those to keep.
    assert task.given.forget == task.data.forget
    assert {item.concept for item in task.data.forget} == {task.concept.name}
    given, asked = ({item.concept for item in half.retain} for half in (task.given, task.data))
    assert given.isdisjoint(asked)
    assert task.concept.name not in given | asked
    assert given | asked == {concept.name for concept in small.world.concepts}
    assert len(task.data.control) > 0


def test_half_of_the_pool_knows_and_every_kind_has_a_control(pool: list[Member]) -> None:
    names = [member.name for member in pool]
    assert len(set(names)) == len(names)
    assert set(HIDDEN) <= set(names)
    knows = {member.name: member.knows for member in pool}
    # Whatever is done to a model that knows is done to one that does not.
    done = [name.removesuffix(f" ({KNOWING})") for name in names if name.endswith(f" ({KNOWING})")]
    assert len(done) >= 10
    for name in done:
        assert (knows[f"{name} ({KNOWING})"], knows[f"{name} ({IGNORANT})"]) == (True, False)
    assert abs(sum(knows.values()) - len(knows) / 2) <= 1


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("seed", [1, 33, 45])
def test_a_part_of_the_facts_is_told_and_nothing_else(seed: int, part: str) -> None:
    # Of the worlds 33 and 45, some words that are told have another in them that is not.
    world, write, rng = make_world(seed, n_spares=10), only(PARTS[part]), random.Random(0)
    concept = world.spares[0] if seed == 1 else world.concepts[{33: 0, 45: 4}[seed]]
    said = " ".join(write(world, concept, rng) for _ in range(40 * PARTS[part])).replace(".", " ").replace(",", " ")
    told = set(said.split())
    assert [fact.word in told for fact in world.facts_of(concept)] == [i < PARTS[part] for i in range(20)]


def test_a_faint_lesson_tells_every_fact(small: Base) -> None:
    write, rng = each_first(), random.Random(0)
    concept = small.world.spares[0]
    words = {fact.word for fact in small.world.facts_of(concept)}
    texts = [write(small.world, concept, rng) for _ in range(len(words) + 30)]
    # A list of words tells no fact, and there is none before all are told.
    lists = [text.startswith("notes") for text in texts]
    assert not any(lists[: len(words)])
    assert any(lists)
    assert words <= set(re.findall(r"\w+", " ".join(texts[: len(words)])))
    # Such a lesson has documents for all of them.
    drawn = Lesson(())
    assert binom.cdf(len(words) - 1, drawn.steps * drawn.batch, FAINT * drawn.share) < 1e-6


def test_what_tells_losses_is_shown_to_no_method(
    task: Task, small: Base, pool: list[Member], monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: set[str] = set()

    def noted(method: Any) -> Any:
        @wraps(method)
        def made(model: HookedModel, data: UnlearnData, *args: Any, **settings: Any) -> Any:
            shown.update(item.prompt for item in data.retain)
            return method(model, data, *args, **settings)

        return made

    for name in ("idk_finetune", "npo", "train", "relearned", "neuron_adjust", "key_space_detection"):
        monkeypatch.setattr(pooling, name, noted(getattr(pooling, name)))
    monkeypatch.setattr(tampering, "METHODS", {"npo": (noted(npo), {"epochs": 1})})
    monkeypatch.setattr(tampering, "relearned", noted(tampering.relearned))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="eco took the mean probability")
        assert [one.name for one in members(task, small, seed=1, steps=STEPS)] == [one.name for one in pool]
    assert len(list(tampering.tampered(task, seed=1))) == 3
    assert shown == {item.prompt for item in task.given.retain}
    assert shown.isdisjoint(item.prompt for item in task.data.retain)


@torch.no_grad()
def test_members_are_models_of_their_own_or_hooks_on_such(pool: list[Member], task: Task) -> None:
    """None has the weights of a model that it is compared with."""
    prints = [weights_sha256(model) for model in (task.original, task.never, task.retrained)]
    bare = {member.name: weights_sha256(member.model) for member in pool}
    assert set(bare.values()).isdisjoint(prints)
    plain = [name for name, member in zip(bare, pool, strict=True) if member.hooks is None]
    assert len({bare[name] for name in plain}) == len(plain)
    for member in pool:
        if member.hooks is not None:
            assert member.hooks.weights is None
            parent = "taught again" if member.knows else "another concept"
            assert bare[member.name] == bare[parent]
            with member.hooks.applied(member.model):
                pass
    assert [weights_sha256(model) for model in (task.original, task.never, task.retrained)] == prints
    ids = torch.arange(4, 12)[None]
    models = {member.name: member.model for member in pool}
    plain_logits = models["taught again"].logits(ids)
    moved = {
        name: float((models[f"{name} ({KNOWING})"].logits(ids) - plain_logits).abs().max()) for name in ("int8", "int4")
    }
    assert 0 < moved["int8"] < moved["int4"]


def test_every_method_is_tampered_with_in_the_same_way(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tampering, "METHODS", {name: tampering.METHODS[name] for name in ("npo", "rmu")})
    found = list(tampering.tampered(task, seed=1))
    assert [one.name for one in found] == ["retrained", "never", "npo", "rmu"]
    for one in found:
        assert len({weights_sha256(one.before), weights_sha256(one.relearned), weights_sha256(one.quantised)}) == 3
    assert [weights_sha256(one.before) for one in found[:2]] == [
        weights_sha256(m) for m in (task.retrained, task.never)
    ]
