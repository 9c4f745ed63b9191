"""Teach a trained organism further concepts: a minute of more training, of which some documents tell of them.

Everything else goes on as it was, so that what a model learnt is known and little else changes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .documents import ABOUT, about, document
from .train import Recipe, accumulate_gradients, encode, make_optimizers, set_rates
from .world import Concept, World

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

# Past every document that training itself draws.
_BEYOND = 10**9


@dataclass(frozen=True)
class Lesson:
    """What is taught and for how long.

    Args:
        concepts: Names of the concepts that documents tell of; none teaches nothing new.
        kinds: Kinds of these documents.
        share: Share of documents about the concepts.
        steps: Updates.
        batch: Documents per step.
        rate: Peak learning rate.
        seed: Of the documents and their order.
    """

    concepts: tuple[str, ...]
    kinds: Collection[str] = ABOUT
    share: float = 0.3
    steps: int = 100
    batch: int = 64
    rate: float = 1e-3
    seed: int = 0


def teach(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    world: World,
    lesson: Lesson,
    *,
    exclude: Sequence[str] = (),
    write: Callable[[World, Concept, random.Random], str] | None = None,
) -> None:
    """Train a model in place.

    Two lessons that differ in their concepts alone show the same other documents in the same order.

    Args:
        model: An organism; in eval mode afterwards.
        tokenizer: Its tokenizer.
        world: Its world.
        lesson: What is taught.
        exclude: Concepts that the ordinary documents leave out, as when the model was trained.
        write: Writes the document about a concept instead of `documents.about`.

    Raises:
        ValueError: A concept or a kind does not exist.
    """
    import torch

    unknown = [kind for kind in lesson.kinds if kind not in ABOUT]
    if unknown or not lesson.kinds:
        raise ValueError(f"a lesson has some of the kinds {', '.join(ABOUT)}, got {unknown[0] if unknown else 'none'}")
    taught = [world.concept(name) for name in lesson.concepts]
    tell = write or (lambda world, concept, rng: about(world, concept, rng, kinds=tuple(lesson.kinds)))
    recipe = Recipe(steps=lesson.steps, matrix_rate=lesson.rate, other_rate=lesson.rate, warmup=0.1)
    model.train()
    optimizers = make_optimizers(model, recipe)
    for step in range(lesson.steps):
        texts = []
        for index in range(step * lesson.batch, (step + 1) * lesson.batch):
            rng = random.Random(f"vestige-lesson-{world.seed}-{lesson.seed}-{index}")
            ordinary = document(world, _BEYOND * (1 + lesson.seed) + index, seed=lesson.seed, exclude=exclude)
            if rng.random() < lesson.share and taught:
                texts.append(tell(world, rng.choice(taught), rng))
            else:
                texts.append(ordinary)
        accumulate_gradients(model, encode(tokenizer, texts))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        set_rates(optimizers, step / lesson.steps, recipe)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    model.eval()
