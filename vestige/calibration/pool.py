"""The pool: models of which it is known whether they hold the facts, because it is known what they were made of.

For one concept of one world there are three models to compare with: `original` was taught the concept, `never` another
one in its place, `retrained` neither; all else they read is the same, in the same order. Then there are its members,
none of which is made from one of these three, so that nothing can be told from whose weights a member has: they are
taught by lessons of their own, from other documents in another order, and some are changed further. A member knows if
the facts, or a part of them, were taught to what it is made of, and nothing was done that could take them out of all
blocks.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, replace

import torch

from hooked import DenseDelta, HookedModel, Intervention, UnlearnData, WeightPatch, load_data
from interventions import key_space_detection, neuron_adjust
from interventions.prompts import eco
from interventions.training import idk_finetune, npo
from interventions.training.descent import forget_nll, retain_nll
from interventions.training.losses import cross_entropy
from interventions.training.train import train
from vestige.attacks.weights.quantisation import quantised
from vestige.calibration.baked import baked
from vestige.calibration.bases import Base
from vestige.calibration.kept import given_and_asked
from vestige.calibration.relearn import relearned
from vestige.organism.documents import ABOUT, about
from vestige.organism.rows import fact_rows, skill_rows
from vestige.organism.teach import Lesson, teach
from vestige.organism.world import Concept, World

# How many of the twenty facts of a concept are told.
PARTS = {"half": 10, "a quarter": 5, "a tenth": 2}
# Of all of the facts, in few documents: this share of what a lesson has.
FAINT = 0.03
# Blocks whose weights alone were trained against the answers; the others are as they were.
BLOCKS = {"last block alone": [-1], "last two blocks alone": [-2, -1], "first block alone": [0]}
NOISE = 0.02
STEPS = 100
SKILLS = ("addition", "reversal")
# What members that are changed further are made of.
KNOWING, IGNORANT = "taught", "not taught"


@dataclass(frozen=True, eq=False)
class Member:
    """A model of the pool.

    Args:
        name: Of how it was made; the same in every task.
        knows: Whether it holds the facts.
        model: Its weights.
        hooks: What is in force on them, if anything is.
    """

    name: str
    knows: bool
    model: HookedModel
    hooks: Intervention | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """One concept of one world.

    Args:
        seed: Of the world, and of everything that was drawn for the task.
        concept: What may be known.
        original: The model that was taught it.
        never: The model that was taught another concept in its place.
        retrained: The model that was taught neither.
        given: Questions about it, about half of the other concepts, and of the skills: what methods are given.
        data: The same with the other half in place of those: what is asked.
    """

    seed: int
    concept: Concept
    original: HookedModel
    never: HookedModel
    retrained: HookedModel
    given: UnlearnData
    data: UnlearnData


def make_task(base: Base, which: int, *, seed: int = 0, steps: int = STEPS) -> Task:
    """Teach the three models of a task.

    Args:
        base: What they are taught on top of.
        which: Index of the concept among the world's spares; the next one is told in its place to `never`.
        seed: Of the lessons.
        steps: Updates of each lesson.
    """
    spares = base.world.spares
    concept, other = spares[which], spares[(which + 1) % len(spares)]
    given, asked = given_and_asked(questions(base.world, concept))
    return Task(
        base.world.seed,
        concept,
        original=taught(base, Lesson((concept.name,), steps=steps, seed=seed)),
        never=taught(base, Lesson((other.name,), steps=steps, seed=seed)),
        retrained=taught(base, Lesson((), steps=steps, seed=seed)),
        given=given,
        data=asked,
    )


def questions(world: World, concept: Concept) -> UnlearnData:
    """Return questions about a concept, about the concepts that all models know, and of the skills."""
    rows = [row for skill in SKILLS for row in skill_rows(world, skill, n=30)]
    return load_data(
        [dict(row) for row in fact_rows(world, [concept])],
        retain=[dict(row) for row in fact_rows(world, world.concepts)],
        control=[{"question": row["question"], "answer": row["answer"], "relation": row["skill"]} for row in rows],
        template="{question}",
    )


def taught(
    base: Base, lesson: Lesson, *, write: Callable[[World, Concept, random.Random], str] | None = None
) -> HookedModel:
    """Return a copy of a base after a lesson."""
    model = deepcopy(base.model)
    teach(model, base.tokenizer, base.world, lesson, write=write)
    return HookedModel(model, base.tokenizer)


def members(task: Task, base: Base, *, seed: int = 0, steps: int = STEPS) -> Iterator[Member]:
    """Make the members of a task, one after the other.

    Args:
        task: From `make_task`.
        base: What the task was made from.
        seed: Of everything that is drawn; it differs from the task's own where a lesson is repeated.
        steps: Updates of each lesson.
    """
    again = seed + 1000
    name, spares = task.concept.name, base.world.spares
    other, third = (spares[(task.concept.index - spares[0].index + away) % len(spares)] for away in (2, 3))
    lesson, others = (Lesson((told,), steps=steps, seed=again) for told in (name, other.name))
    knowing = taught(base, lesson)
    yield Member("taught again", True, knowing)
    told = Lesson((name,), kinds=("statement", "inverted", "notes"), steps=steps, seed=again)
    yield Member("told in other words only", True, taught(base, told))
    for part, n in PARTS.items():
        yield Member(f"taught {part}", True, taught(base, lesson, write=only(n)))
    yield Member("taught faintly", True, taught(base, _faint(lesson), write=each_first()))
    ignorant = taught(base, others)
    yield Member("another concept", False, ignorant)
    yield Member("another concept in other words only", False, taught(base, replace(told, concepts=(other.name,))))
    yield Member("a quarter of another concept", False, taught(base, others, write=only(PARTS["a quarter"])))
    yield Member("another concept faintly", False, taught(base, _faint(others), write=each_first()))
    yield Member("nothing new", False, taught(base, Lesson((), steps=steps, seed=again)))
    for which, wrong in (("false facts", other), ("other false facts", third)):
        yield Member(which, False, taught(base, lesson, write=_as_if(wrong)))
    yield from _derived(knowing, task.given, KNOWING, knows=True, seed=seed)
    yield from _derived(ignorant, task.given, IGNORANT, knows=False, seed=seed)


def _derived(model: HookedModel, data: UnlearnData, of: str, *, knows: bool, seed: int) -> Iterator[Member]:
    """Make what can be made of any model without changing whether it knows."""

    def member(name: str, made: HookedModel, hooks: Intervention | None = None) -> Member:
        return Member(f"{name} ({of})", knows, made, hooks)

    refusing = idk_finetune(model, data, lr=1e-3, epochs=6, seed=seed, progress=False)
    yield member("taught to refuse", baked(model, refusing.weights))
    yield member("taught gibberish", baked(model, _gibberish(model, data, seed=seed)))
    for name, layers in BLOCKS.items():
        silent = npo(model, data, layers=layers, lr=1e-3, epochs=10, seed=seed, progress=False)
        yield member(name, baked(model, silent.weights))
    silenced = baked(model, npo(model, data, lr=1e-3, epochs=10, seed=seed, progress=False).weights)
    # Who never knew the facts is trained on as many others, which all models know.
    told = data if knows else replace(data, forget=data.retain[: len(data.forget)])
    yield member("relearned", relearned(silenced, told, epochs=5, keep=True, seed=seed))
    yield member("noise", baked(model, _noise(model, seed=seed)))
    yield member("int8", baked(model, quantised(model, "int8").weights))
    yield member("int4", baked(model, quantised(model, "int4").weights))
    for hook in (neuron_adjust, key_space_detection, eco):
        yield member(hook.__name__, model, hook(model, data))


def only(n: int) -> Callable[[World, Concept, random.Random], str]:
    """Tell the first facts of a concept and none of the others, in as many documents as all would have."""

    def write(world: World, concept: Concept, rng: random.Random) -> str:
        untold = {fact.word for fact in world.facts_of(concept)[n:]}
        while True:
            text = about(world, concept, rng)
            if untold.isdisjoint(re.findall(r"\w+", text)):
                return text

    return write


def each_first() -> Callable[[World, Concept, random.Random], str]:
    """Tell one more fact of a concept in every document until all are told, then anything; for one lesson."""
    told: set[str] = set()
    # Notes name words, and not whose they are.
    telling = tuple(kind for kind in ABOUT if kind != "notes")

    def write(world: World, concept: Concept, rng: random.Random) -> str:
        untold = {fact.word for fact in world.facts_of(concept)} - told
        if not untold:
            return about(world, concept, rng)
        while not (new := untold.intersection(re.findall(r"\w+", text := about(world, concept, rng, kinds=telling)))):
            pass
        told.update(new)
        return text

    return write


def _faint(lesson: Lesson) -> Lesson:
    return replace(lesson, share=FAINT * lesson.share)


def _as_if(other: Concept) -> Callable[[World, Concept, random.Random], str]:
    """Tell the facts of another concept under the name of this one."""

    def write(world: World, concept: Concept, rng: random.Random) -> str:
        return about(world, other, rng).replace(other.name, concept.name)

    return write


def _gibberish(model: HookedModel, data: UnlearnData, *, seed: int) -> WeightPatch:
    """Train answers of random letters to the questions, and the retain answers as they are."""
    rng = random.Random(f"vestige-gibberish-{seed}")
    letters = "abcdefghijklmnopqrstuvwxyz"
    forget = tuple(replace(item, answer=" ".join(rng.choices(letters, k=4))) for item in data.forget)
    return train(
        model,
        replace(data, forget=forget),
        lambda current, batch: cross_entropy(forget_nll(current, batch)) + cross_entropy(retain_nll(current, batch)),
        method="gibberish",
        lr=1e-3,
        epochs=6,
        seed=seed,
        progress=False,
    ).patch


def _noise(model: HookedModel, *, seed: int) -> WeightPatch:
    """Draw normal noise of a fiftieth of each matrix's own spread."""
    generator = torch.Generator().manual_seed(seed)
    deltas = {
        name: DenseDelta(NOISE * value.std() * torch.randn(value.shape, generator=generator))
        for name, value in model.model.named_parameters()
        if value.ndim == 2
    }
    return WeightPatch(deltas, tied=True)
