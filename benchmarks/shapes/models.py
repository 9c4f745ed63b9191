"""What the shapes are asked of: for each seed a world, a concept, and models of which it is known what they read."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from hooked import HookedModel, UnlearnData
from vestige.calibration.bases import base
from vestige.calibration.kept import given_and_asked
from vestige.calibration.pool import Task, make_task, questions
from vestige.organism.teach import Lesson, teach

# Spares of which no model of a seed was ever told: what membership attacks hold the facts against.
HELD_OUT = (2, 3, 4)
# Of each matrix's own spread, in models that are disturbed and still know what they knew.
NOISE = 0.02
TASK = ("original", "never", "retrained")


@dataclass(frozen=True, eq=False)
class Seed:
    """A seed's models and questions.

    Args:
        number: Of the world, the lessons and all that is drawn.
        task: The concept, the model that was taught it, the two that were not, and what methods are given.
        again: A model that was taught the concept once more, from other documents.
        data: What is asked, with facts held out that none of the models was told.
        words: Of the concept's answers.
    """

    number: int
    task: Task
    again: HookedModel
    data: UnlearnData
    words: tuple[str, ...]


def seed_of(number: int, folder: Path) -> Seed:
    """Return what belongs to a seed; models are taught where the folder does not have them yet."""
    made_of = base(number, folder)
    spares = made_of.world.spares
    homes = {name: folder / f"seed-{number}" / name for name in (*TASK, "again")}
    if not all((homes[name] / "config.json").is_file() for name in TASK):
        task = make_task(made_of, 0, seed=number)
        for name in TASK:
            _keep(getattr(task, name), homes[name])
    if not (homes["again"] / "config.json").is_file():
        model = deepcopy(made_of.model)
        teach(model, made_of.tokenizer, made_of.world, Lesson((spares[0].name,), seed=number + 1000))
        _keep(HookedModel(model, made_of.tokenizer), homes["again"])
    loaded = {name: HookedModel.from_pretrained(str(home), dtype="float32") for name, home in homes.items()}
    given, asked = given_and_asked(questions(made_of.world, spares[0]))
    holdout = tuple(item for which in HELD_OUT for item in questions(made_of.world, spares[which]).forget)
    return Seed(
        number,
        Task(made_of.world.seed, spares[0], loaded["original"], loaded["never"], loaded["retrained"], given, asked),
        loaded["again"],
        replace(asked, holdout=holdout),
        tuple(fact.word for fact in made_of.world.facts_of(spares[0])),
    )


def _keep(model: HookedModel, home: Path) -> None:
    """Write a model into a folder that is complete or not there."""
    scratch = home.with_name(f".{home.name}")
    scratch.mkdir(parents=True, exist_ok=True)
    model.model.save_pretrained(scratch)
    model.tokenizer.save_pretrained(scratch)
    scratch.rename(home)


def noisy(model: HookedModel, seed: int) -> HookedModel:
    """Return a copy with a little normal noise on every matrix."""
    copied, generator = deepcopy(model.model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in copied.parameters():
            if value.ndim == 2:
                value.add_(NOISE * value.std() * torch.randn(value.shape, generator=generator))
    return HookedModel(copied, model.tokenizer)


def broken(seed: Seed) -> dict[str, HookedModel]:
    """Return a model of nothing but noise, and the original with its readout of the answers' tokens zeroed."""
    original, tokenizer = seed.task.original, seed.task.original.tokenizer
    noise, readout = deepcopy(original.model), deepcopy(original.model)
    generator = torch.Generator().manual_seed(seed.number)
    with torch.no_grad():
        for value in noise.parameters():
            if value.ndim == 2:
                value.copy_(value.std() * torch.randn(value.shape, generator=generator))
        weight = readout.get_output_embeddings().weight.detach().clone()
        answers = original.tokenize([""] * len(seed.data.forget), answers=[item.answer for item in seed.data.forget])
        weight[answers.ids[answers.answer].unique()] = 0.0
        readout.lm_head = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
        readout.lm_head.weight.copy_(weight)
        readout.config.tie_word_embeddings = False
    return {"noise": HookedModel(noise, tokenizer), "readout zeroed": HookedModel(readout, tokenizer)}
