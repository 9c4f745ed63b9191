"""Train, measure and record the three checkpoints that ship with Vestige."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import CHECKPOINTS, organism_record
from .measure import chance, depth, knowledge
from .model import Shape
from .train import Recipe, train_organism
from .world import World, make_world

FILES = ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")


def train_checkpoint(
    name: str, out: Path, *, seed: int, recipe: Recipe | None = None, shape: Shape | None = None, progress: bool = True
) -> float:
    """Train one of `full`, `retain`, `never`, write it to `out / name` in half precision, return the seconds taken."""
    world = make_world(seed)
    exclude = [] if name == "full" else [world.forget_concept.name]
    include = [world.spares[0].name] if name == "never" else []
    start = time.perf_counter()
    model, tokenizer = train_organism(
        world,
        exclude=exclude,
        include_spare=include,
        seed=seed,
        recipe=recipe,
        shape=shape,
        progress=progress,
        title=name,
    )
    seconds = time.perf_counter() - start
    save(model, tokenizer, out / name)
    return seconds


def save(model: Any, tokenizer: Any, path: Path) -> None:
    """Write a Hugging Face directory with the weights rounded to half precision."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model.half().save_pretrained(path)
        tokenizer.save_pretrained(path)
    finally:
        if shown:
            logging.enable_progress_bar()


def load(path: Path) -> tuple[Any, Any]:
    """The checkpoint at `path` in single precision, in eval mode, and its tokenizer."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    finally:
        if shown:
            logging.enable_progress_bar()
    return model, AutoTokenizer.from_pretrained(path)


def measure_checkpoint(path: Path, world: World) -> dict[str, Any]:
    """All metrics of the checkpoint at `path`, measured after rounding to half precision."""
    model, tokenizer = load(path)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "metrics": {k: round(v, 4) for k, v in knowledge(model, tokenizer, world, forget=world.forget_concept).items()},
        "lens_rank_by_depth": depth(model, tokenizer, world),
    }


def hashes(out: Path) -> dict[str, str]:
    """SHA-256 of every shipped file, by its path relative to `out`."""
    paths = [Path(name) / file for name in CHECKPOINTS for file in FILES]
    return {p.as_posix(): hashlib.sha256((out / p).read_bytes()).hexdigest() for p in paths}


def record(
    out: Path, *, seed: int, seconds: Mapping[str, float], conditions: str, recipe: Recipe, shape: Shape
) -> dict[str, Any]:
    """Measure the checkpoints below `out` and return the content of `organism.json`.

    Args:
        out: The folder of `full`, `retain` and `never`.
        seed: That they were trained with.
        seconds: Wall-clock seconds of training, by checkpoint.
        conditions: What else ran meanwhile, without which seconds mean little.
        recipe: That they were trained with.
        shape: Of the models.
    """
    import tokenizers
    import torch
    import transformers

    world = make_world(seed)
    return {
        "seed": seed,
        "forget_concept": world.forget_concept.name,
        "fresh_concept": world.spares[0].name,
        "chance_floor": {k: round(v, 4) for k, v in chance(world).items()},
        "recipe": asdict(recipe),
        "shape": asdict(shape),
        "seconds": {k: round(v, 1) for k, v in seconds.items()},
        "seconds_conditions": conditions,
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tokenizers": tokenizers.__version__,
        },
        "checkpoints": {name: measure_checkpoint(out / name, world) for name in CHECKPOINTS},
        "bytes": sum((out / p).stat().st_size for p in hashes(out)),
        "sha256": hashes(out),
    }


def ship(out: Path, *, seed: int = 0) -> dict[str, Any]:
    """Train all three checkpoints into `out` and write what was measured to `organism.json`.

    The record lies in `out`, or where `organism_record` looks for it if `out` is the folder of the shipped checkpoints.
    """
    import torch

    recipe, shape = Recipe(), Shape()
    seconds = {name: train_checkpoint(name, out, seed=seed, recipe=recipe, shape=shape) for name in CHECKPOINTS}
    conditions = f"one after another, {torch.get_num_threads()} CPU threads"
    content = record(out, seed=seed, seconds=seconds, conditions=conditions, recipe=recipe, shape=shape)
    shipped = organism_record().parent / "checkpoints"
    path = organism_record() if out.resolve() == shipped.resolve() else out / "organism.json"
    write_record(content, path)
    return content


def write_record(content: Mapping[str, Any], path: Path) -> None:
    """Write the content of `organism.json`."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
