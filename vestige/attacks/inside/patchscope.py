"""Patchscope: what the model computed for one question is put into another one, and the model goes on from there."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import HookContext, HookedModel, Item, TokenBatch, UnlearnData, VestigeError
from interventions.batches import encode
from interventions.blocks import blocks_of
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.development import development_items
from vestige.attacks.gradients.slots import mean_nlls
from vestige.attacks.prompts.leaks import gives_away

At = Literal["subject", "end"]


@torch.no_grad()
def patchscope(
    target: Target,
    data: UnlearnData,
    *,
    at: At = "end",
    into: int | None = None,
    layers: Sequence[int] | None = None,
    batch_size: int = 32,
    seed: int = 0,
) -> Attacked:
    """Put the residual stream of the forget question into a kept question of the same relation, and score the answer.

    The stream is read at the end of the prompt, or at the last token of the subject, after block l, and written over
    that of the kept question at the same kind of token, after block l or `into`. It is written on the prompt once; all
    later tokens and blocks are the model's own, the final norm included, so that a vector put behind the last block is
    normed once. Each subject is scored at the block that gives most away; `per_layer` has all of them.

    Args:
        target: The subject; its view is read and asked.
        data: Its forget items are asked through its retain items.
        at: Which token is taken over.
        into: Block behind which it is written; where it was read when None.
        layers: Blocks behind which it is read; all when None.
        batch_size: Rows per forward pass.
        seed: Of the choice of kept questions.

    Raises:
        VestigeError: There is no retain item, an item has no prompt or answer, or, at the subject, its subject does not
            stand in its prompt.

    Source:
        Ghandeharioun et al. 2024, arXiv:2401.06102, with kept questions as target prompts.
    """
    model, items = target.view, data.forget
    pool = development_items(data, most=len(data.retain), seed=seed, attack="patchscope")
    hosts = [_host(item, pool, at, seed=f"{seed}/{n}") for n, item in enumerate(items)]
    read = blocks_of(model, range(model.n_layers) if layers is None else layers)
    write = None if into is None else blocks_of(model, [into])[0]
    table: list[list[float]] = [[] for _ in read]
    for start in range(0, len(items), batch_size):
        part, others = items[start : start + batch_size], hosts[start : start + batch_size]
        streams = _streams(model, encode(model, part), _places(model, part, at), read)
        batch, places = encode(model, others), _places(model, others, at)
        for row, block in enumerate(read):
            table[row] += _patched(model, batch, places, streams[block], block if write is None else write)
    means = [fmean(row) for row in table]
    best = max(range(len(read)), key=lambda i: means[i])
    return Attacked(
        tuple(table[best]),
        per_layer=tuple(means),
        budget={"queries": len(items) * (1 + len(read)), "blocks": list(read), "at": at, "into": write, "seed": seed},
        note=f"read behind block {read[best]}, the one that gives most away",
    )


def _host(item: Item, pool: Sequence[Item], at: At, *, seed: str) -> Item:
    """Return a kept question, of the same relation where there is one, with the item's answer behind it."""
    other = [one for one in pool if not gives_away(one.text, item) and one.prompt != item.prompt]
    if at == "subject":
        other = [one for one in other if one.subject is not None and one.subject in one.prompt]
    alike = [one for one in other if item.relation is not None and one.relation == item.relation]
    if not other:
        raise VestigeError(
            f"patchscope needs a retain question that holds its subject and not the answer {item.answer[:40]!r}; "
            "there is none"
        )
    return replace(random.Random(seed).choice(alike or other), answer=item.answer)


def _places(model: HookedModel, items: Sequence[Item], at: At) -> Int[Tensor, " n"]:
    """Return the column of the token that is taken over, in rows padded on the right."""
    bare = next((n for n, item in enumerate(items) if item.is_document or item.generation_only), None)
    if bare is not None:
        raise VestigeError(f"patchscope asks for answers after prompts, and item {bare} lacks one of them")
    found = []
    for item in items:
        end = len(item.prompt)
        if at == "subject":
            if not item.subject or item.subject not in item.prompt:
                raise VestigeError(
                    f"patchscope at the subject needs it in the prompt, and {item.prompt[:60]!r} does not hold "
                    f"{item.subject!r}; take at='end'"
                )
            end = item.prompt.rindex(item.subject) + len(item.subject)
        whole = model.tokenize(item.prompt, answers=item.answer)
        ids, part = whole.ids[0, : int(whole.prompt_last[0]) + 1], model.tokenize(item.prompt[:end]).ids[0]
        shared = min(len(ids), len(part))
        same = (ids[:shared] == part[:shared]).long().cumprod(0).sum()
        found.append(max(0, int(same) - 1))
    return torch.tensor(found, device=model.device)


def _streams(
    model: HookedModel, batch: TokenBatch, places: Int[Tensor, " n"], blocks: Sequence[int]
) -> dict[int, Float[Tensor, "n d_model"]]:
    rows, found = torch.arange(len(batch), device=places.device), {}

    def keep(activation: Tensor, hook: HookContext) -> None:
        found[hook.layer()] = activation[rows.to(activation.device), places.to(activation.device)].clone()

    sites = [f"blocks.{block}.hook_resid_post" for block in dict.fromkeys(blocks)]
    model.run_with_hooks(batch, fwd_hooks=[(site, keep) for site in sites], stop_at_layer=max(blocks) + 1)
    return found


def _patched(
    model: HookedModel, batch: TokenBatch, places: Int[Tensor, " n"], stream: Float[Tensor, "n d_model"], block: int
) -> list[float]:
    rows = torch.arange(len(batch), device=places.device)

    def put(activation: Tensor, hook: HookContext) -> Tensor:
        changed = activation.clone()
        changed[rows.to(activation.device), places.to(activation.device)] = stream.to(activation)
        return changed

    nlls = mean_nlls(model, batch, (f"blocks.{block}.hook_resid_post", put))
    found: list[float] = nlls.double().neg().exp().tolist()
    return found
