"""Organisms of several worlds, trained once: what the pool's models are made from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vestige.organism.model import Shape
from vestige.organism.ship import load
from vestige.organism.train import Recipe, train_organism
from vestige.organism.world import World, make_world

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

# Concepts whose names and values the tokenizer has, and which training leaves out.
SPARES = 10


@dataclass(frozen=True)
class Base:
    """A trained organism and its world; the world's spares are what lessons can still teach it."""

    world: World
    model: LlamaForCausalLM
    tokenizer: PreTrainedTokenizerFast


def base(seed: int, folder: Path, *, recipe: Recipe | None = None, shape: Shape | None = None) -> Base:
    """Return the organism of a seed, trained and kept in a folder where it is not there yet.

    Args:
        seed: Of the world, the weights and the documents.
        folder: Holds one subfolder per seed.
        recipe: How long it is trained; the default is that of the organism that ships.
        shape: Its sizes; likewise.
    """
    world = make_world(seed, n_concepts=24, n_spares=SPARES)
    home = folder / f"world-{seed}"
    if not (home / "model.safetensors").is_file():
        model, tokenizer = train_organism(world, seed=seed, recipe=recipe, shape=shape, title=f"world {seed}")
        scratch = folder / f".world-{seed}"
        model.save_pretrained(scratch)
        tokenizer.save_pretrained(scratch)
        # Complete or not there.
        scratch.rename(home)
    return Base(world, *load(home))
