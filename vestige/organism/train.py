"""Train organisms from scratch on the CPU: Muon for the matrices, AdamW for embeddings and norms, one decaying rate.

`train_organism` is the whole recipe as a function; the checkpoints that ship are made by `ship.py`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .documents import document
from .model import Shape, make_model
from .tokenizer import make_tokenizer
from .world import World

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

IGNORED = -100
_CHUNKS = 4


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train. Rates are peaks: linear warm-up, then a plateau, then a linear fall to zero."""

    steps: int = 700
    batch: int = 256
    matrix_rate: float = 4e-3
    other_rate: float = 4e-3
    weight_decay: float = 0.1
    warmup: float = 0.03
    cooldown: float = 0.5


def train_organism(
    world: World,
    *,
    exclude: Sequence[str] = (),
    include_spare: Sequence[str] = (),
    seed: int = 0,
    recipe: Recipe | None = None,
    shape: Shape | None = None,
    losses: list[float] | None = None,
    progress: bool = True,
    title: str = "organism",
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Train one organism and return it in eval mode with its tokenizer.

    Runs that share `world`, `seed`, `recipe` and `shape` see the same documents in the same order from the same
    initial weights, except that documents about an excluded concept are replaced in place.

    Args:
        world: What to teach.
        exclude: Names of concepts that the model never sees.
        include_spare: Names of spare concepts; the first is told in place of the first excluded one, and so on.
            Documents of an excluded concept without a spare become filler.
        seed: Of the initial weights and of the stream of documents.
        recipe: Steps and rates; the default is what ships.
        shape: Sizes of the model; the default is what ships.
        losses: If given, the loss of every step (nats per token) is appended to it.
        progress: Show a progress bar with loss and time left.
        title: Label of the progress bar.

    Raises:
        ValueError: A name is unknown, or there are more spares than excluded concepts.
    """
    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    recipe = recipe or Recipe()
    replace = _replacements(world, exclude, include_spare)
    tokenizer = make_tokenizer(world)
    model = make_model(tokenizer, shape or Shape(), seed=seed).train()
    optimizers = make_optimizers(model, recipe)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, disable=not progress) as bar:
        task = bar.add_task(title, total=recipe.steps, loss="-")
        for step in range(recipe.steps):
            first = step * recipe.batch
            texts = [
                document(world, i, seed=seed, exclude=exclude, replace=replace)
                for i in range(first, first + recipe.batch)
            ]
            loss = accumulate_gradients(model, encode(tokenizer, texts))
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            set_rates(optimizers, step / recipe.steps, recipe)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            if losses is not None:
                losses.append(loss)
            bar.update(task, advance=1, loss=f"{loss:.3f}")
    return model.eval(), tokenizer


def encode(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of whole documents: BOS, text, EOS."""
    return [[*ids, tokenizer.eos_token_id] for ids in tokenizer(list(texts)).input_ids]


def accumulate_gradients(model: LlamaForCausalLM, rows: Sequence[Sequence[int]]) -> float:
    """Add the gradient of the mean next-token loss over all rows and return that loss, in nats per token.

    Rows are sorted by length and run in a few chunks, each padded to its own longest row, which saves the third of the
    arithmetic that padding would take. Padding is on the right, so causal attention needs no mask.
    """
    import torch
    from torch.nn.functional import cross_entropy

    rows = sorted(rows, key=len)
    n_tokens = sum(len(row) - 1 for row in rows)
    size = -(-len(rows) // _CHUNKS)
    total = 0.0
    for start in range(0, len(rows), size):
        chunk = rows[start : start + size]
        width = len(chunk[-1])
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in chunk])
        labels = torch.tensor([[*row[1:], *[IGNORED] * (width - len(row))] for row in chunk])
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits
        loss = cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum") / n_tokens
        loss.backward()
        total += loss.item()
    return total


def _replacements(world: World, exclude: Collection[str], include_spare: Collection[str]) -> dict[str, str]:
    for name in exclude:
        if world.concept(name).spare:
            raise ValueError(f"only an ordinary concept can be excluded, and {name!r} is a spare one")
    for name in include_spare:
        if not world.concept(name).spare:
            raise ValueError(f"include_spare takes spare concepts, and {name!r} is an ordinary one")
    if len(include_spare) > len(exclude):
        raise ValueError(
            f"each spare takes the place of an excluded concept; got {len(include_spare)} spares for {len(exclude)}"
        )
    return dict(zip(exclude, include_spare, strict=False))


def make_optimizers(model: LlamaForCausalLM, recipe: Recipe) -> list[torch.optim.Optimizer]:
    """Muon for the matrices and AdamW for all else, at their peak rates."""
    import torch

    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(
        [{"params": matrices, "peak": recipe.matrix_rate}],
        lr=recipe.matrix_rate,
        weight_decay=recipe.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        [{"params": others, "peak": recipe.other_rate}], lr=recipe.other_rate, betas=(0.9, 0.95), weight_decay=0.0
    )
    return [muon, adamw]


def set_rates(optimizers: Sequence[torch.optim.Optimizer], progress: float, recipe: Recipe) -> None:
    """Set the rates for a step at `progress` in [0, 1)."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * _rate(progress, recipe)


def _rate(progress: float, recipe: Recipe) -> float:
    """Fraction of the peak rate at `progress` in [0, 1)."""
    return min(1.0, (progress + 1e-3) / recipe.warmup, (1.0 - progress) / recipe.cooldown)


def main(arguments: Sequence[str] | None = None) -> None:
    """Command line: `python -m vestige.organism.train --out DIR --seed 0`."""
    import argparse
    from pathlib import Path

    import torch

    from .ship import ship

    parser = argparse.ArgumentParser(prog="python -m vestige.organism.train", description="Train full, retain, never.")
    parser.add_argument("--out", type=Path, required=True, help="folder for full/, retain/, never/")
    parser.add_argument("--seed", type=int, default=0, help="of the world, the weights and the documents")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    ship(options.out, seed=options.seed)


if __name__ == "__main__":
    main()
