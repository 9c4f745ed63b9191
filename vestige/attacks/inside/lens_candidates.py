"""What a lens shows of every token after each block of a model, turned into lists of candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import Decoder, HookedModel, Item, VestigeError
from interventions.blocks import blocks_of
from vestige.attacks.attacked import Attacked
from vestige.attacks.inside.candidates import Ranking, differences, hits, permutation_floor

# From a block, or -1 for the embedding, and its residual stream `[batch, d_model]` to logits.
Lens = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class LensSettings:
    """What the candidates of a lens attack depend on.

    Args:
        order: 0, 1 or 2 differences between blocks.
        budget: Candidates for each item.
        layers: Blocks whose statistic counts, ascending.
        adjacent: Whether differences are to the block just before, or to the one before it in `layers`.
        answer_ids: Tokens that can be an answer.
    """

    order: int
    budget: int
    layers: tuple[int, ...]
    adjacent: bool
    answer_ids: Int[Tensor, " n_tokens"]


def checked(
    model: HookedModel,
    decoder: Decoder,
    *,
    order: int,
    budget: int,
    layers: Sequence[int] | None,
    adjacent: bool,
    answer_ids: Sequence[int] | None,
) -> LensSettings:
    """Return the settings with nothing left to choose.

    Raises:
        VestigeError: One is out of range.
    """
    d_model, d_vocab = decoder.W_U.shape
    if d_model != model.d_model:
        raise VestigeError(f"the decoder has d_model {d_model}, the model {model.d_model}; a lens needs them equal")
    if order not in (0, 1, 2):
        raise VestigeError(f"order is 0, 1 or 2 differences between blocks, got {order}")
    ids = torch.arange(d_vocab) if answer_ids is None else torch.tensor(sorted(set(answer_ids)), dtype=torch.long)
    if not len(ids) or int(ids[0]) < 0 or int(ids[-1]) >= d_vocab:
        raise VestigeError(f"answer_ids needs token ids from 0 to {d_vocab - 1}, got {list(answer_ids or ())[:5]}")
    if not 1 <= budget <= len(ids):
        raise VestigeError(f"budget is 1 to {len(ids)} candidates, as many as tokens can be an answer; got {budget}")
    blocks = tuple(sorted(range(model.n_layers) if layers is None else blocks_of(model, layers)))
    return LensSettings(order, budget, blocks, adjacent, ids)


@dataclass(frozen=True)
class Candidates:
    """What a lens attack would try.

    Args:
        together: Token ids for each item, best first.
        each: The same by each statistic alone.
        blocks: The block of each statistic.
        targets: First token of each right answer.
    """

    together: Int[Tensor, "n budget"]
    each: Int[Tensor, "n_statistics n budget"]
    blocks: tuple[int, ...]
    targets: Int[Tensor, " n"]


@torch.no_grad()
def candidates_of(
    model: HookedModel, items: Sequence[Item], lens: Lens, settings: LensSettings, *, batch_size: int
) -> Candidates:
    """Read the candidates off a model, batch by batch.

    Raises:
        VestigeError: An item has no prompt or no answer, no block is left, or activations are not finite.
    """
    blocks = statistic_blocks(settings)
    if not blocks:
        raise VestigeError(
            f"{settings.order} differences of the {len(settings.layers)} blocks {list(settings.layers)} leave none; "
            "give more layers"
        )
    both_ends, together, each = settings.order > 0, [], []
    for start in range(0, len(items), batch_size):
        streams = _streams(model, items[start : start + batch_size])
        everything, alone = Ranking(both_ends=both_ends), []
        for values in _statistics(streams, lens, settings):
            everything.add(values)
            one = Ranking(both_ends=both_ends)
            one.add(values)
            alone.append(settings.answer_ids[one.first(settings.budget)])
        together.append(settings.answer_ids[everything.first(settings.budget)])
        each.append(torch.stack(alone))
    return Candidates(torch.cat(together), torch.cat(each, 1), blocks, first_answers(model, items))


def attacked(
    found: Candidates, settings: LensSettings, *, permutations: int, seed: int, what: str, **spent: int
) -> Attacked:
    """Score candidate lists, with their floor."""
    floor = permutation_floor(found.together, found.targets, permutations=permutations, seed=seed)
    by_chance = settings.budget / len(settings.answer_ids)
    bar = "" if floor is None else f", 95th percentile of exchanged answers {floor[1]:.3f}"
    return Attacked(
        tuple(hits(found.together, found.targets).double().tolist()),
        measure="candidates",
        floor=by_chance if floor is None else floor[0],
        per_layer=tuple(float(hits(one, found.targets).double().mean()) for one in found.each),
        budget={"queries": len(found.targets), "candidates": settings.budget, "blocks": list(found.blocks), **spent},
        note=f"{what}: hits among {settings.budget} tokens; a random list hits {by_chance:.3f}{bar}",
    )


def statistic_blocks(settings: LensSettings) -> tuple[int, ...]:
    """Return the block that each statistic belongs to: a difference belongs to the later block."""
    if not settings.adjacent:
        return settings.layers[settings.order :]
    # Entry -1 is the embedding, which serves as a predecessor only.
    return tuple(layer for layer in settings.layers if layer >= max(0, settings.order - 1))


def _statistics(streams: dict[int, Tensor], lens: Lens, settings: LensSettings) -> Iterator[Tensor]:
    first = -1 if settings.adjacent and settings.order > 0 else 0
    last = max(settings.layers)
    entries = range(first, last + 1) if settings.adjacent else settings.layers
    shown = (_distribution(lens, entry, streams[entry])[:, settings.answer_ids] for entry in entries)
    wanted = set(statistic_blocks(settings))
    for entry, values in zip(list(entries)[settings.order :], differences(shown, settings.order), strict=True):
        if entry in wanted:
            yield values


def _distribution(lens: Lens, entry: int, acts: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_vocab"]:
    logits = lens(entry, acts).double()
    # NaN compares false with everything and would rank first.
    if not bool(torch.isfinite(logits).all()):
        where = "the embedding" if entry < 0 else f"block {entry}"
        raise VestigeError(f"the lens at {where} gives NaN or infinity; the model has diverged, nothing can be read")
    return logits.softmax(-1).cpu()


def _streams(model: HookedModel, items: Sequence[Item]) -> dict[int, Tensor]:
    """Return the residual stream at the last prompt token by block, with -1 for what enters block 0."""
    names = ["blocks.0.hook_resid_pre", *(f"blocks.{layer}.hook_resid_post" for layer in range(model.n_layers))]
    batch = model.tokenize([item.prompt for item in items], padding_side="left")
    _, cache = model.run_with_cache(batch, names_filter=names, pos_slice=[-1], return_type=None)
    return {entry - 1: cache[name][:, 0] for entry, name in enumerate(names)}


def first_answers(model: HookedModel, items: Sequence[Item]) -> Int[Tensor, " n"]:
    """Return the first token of each answer as it follows the prompt.

    Raises:
        VestigeError: An item has no prompt or no answer.
    """
    bare = next((n for n, item in enumerate(items) if item.is_document or item.generation_only), None)
    if bare is not None:
        lacks = "prompt" if items[bare].is_document else "answer"
        raise VestigeError(f"a lens attack reads what follows a prompt, and item {bare} has no {lacks}")
    batch = model.tokenize([item.prompt for item in items], answers=[item.answer for item in items])
    return batch.ids.gather(-1, batch.answer.long().argmax(-1, keepdim=True))[:, 0].cpu()
