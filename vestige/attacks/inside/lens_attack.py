"""Lens attacks: what each block would say, and how that changes from block to block, gives the answer away."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from hooked import Decoder, HookedModel, Item, UnlearnData, VestigeError
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.development import development_items
from vestige.attacks.inside.candidates import hits
from vestige.attacks.inside.lens_candidates import LensSettings, attacked, candidates_of, checked

_NAMES = ("head projection", "probability delta", "probability delta squared")


def lens_attack(
    target: Target,
    data: UnlearnData,
    *,
    order: Literal[0, 1, 2] = 0,
    budget: int = 4,
    layers: Sequence[int] | None = None,
    n_selected: int | None = None,
    adjacent: bool = True,
    answer_ids: Sequence[int] | None = None,
    own_decoder: bool = False,
    permutations: int = 20,
    batch_size: int = 32,
    seed: int = 0,
) -> Attacked:
    """Look for the answer's first token among exactly `budget` candidates that the lens shows after the prompt.

    `D_l` is the distribution over tokens that the original's decoder reads off the residual stream after block l at the
    last prompt token, through the final norm exactly once. Order 0, head projection, takes its likeliest tokens; order
    1, probability delta, those that rise or fall most in `D_l - D_(l-1)`; order 2 those of the differences of that. The
    embedding stands before block 0. Tokens are taken by their best rank over the blocks.

    A score is 1 for a hit. The floor exchanges the answers between items; `per_layer` is the hit rate of each block's
    own candidates, for the blocks in `budget["blocks"]`.

    Args:
        target: The subject; its view is read.
        data: Its forget items are asked.
        order: 0, 1 or 2.
        budget: Candidates for each item; published 20 of 50,000 tokens. Where the vocabulary is small, the kind of the
            answer alone puts it among a few dozen, on every subject.
        layers: Blocks that count; all when None.
        n_selected: Keep only so many of them, those that give most away about retain items (`select_blocks`).
        adjacent: Differences to the block just before; if not, to the one before it among those that count, as
            published, which gives `order` statistics fewer.
        answer_ids: Tokens that can be an answer, where the attacker knows its type; all when None.
        own_decoder: Read with the subject's own decoder.
        permutations: Of the floor, at least 20.
        batch_size: Rows per forward pass.
        seed: Of the permutations, and of the retain items that blocks are selected on.

    Raises:
        VestigeError: An item has no prompt or no answer, a setting is out of range, or no block is left.

    Source:
        Patil, Hase and Bansal 2023, arXiv:2309.17410. Published lists are unions over blocks, of varying length.
    """
    decoder = target.view.decoder if own_decoder else target.notes.decoder
    settings = checked(
        target.view,
        decoder,
        order=order,
        budget=budget,
        layers=layers,
        adjacent=adjacent,
        answer_ids=answer_ids,
    )
    if n_selected is not None:
        facts = development_items(data, most=100, seed=seed, attack="lens_attack with n_selected")
        settings = select_blocks(target.view, decoder, facts, settings, n=n_selected, batch_size=batch_size)
    found = candidates_of(
        target.view, data.forget, lambda _, acts: decoder.lens(acts.to(decoder.W_U)), settings, batch_size=batch_size
    )
    return attacked(found, settings, permutations=permutations, seed=seed, what=_NAMES[order])


def select_blocks(
    model: HookedModel, decoder: Decoder, facts: Sequence[Item], settings: LensSettings, *, n: int, batch_size: int
) -> LensSettings:
    """Keep the n blocks whose own candidates hit most often on facts that are known, earlier ones first among equals.

    Args:
        model: The subject.
        decoder: Reads its residual stream.
        facts: Retain items, never those under attack: a choice made on them would count luck as knowledge.
        settings: With the blocks to choose from.
        n: How many, at least one more than differences are taken to the block before in the list.
        batch_size: Rows per forward pass.

    Raises:
        VestigeError: There are not that many blocks.
    """
    least = 1 if settings.adjacent else 1 + settings.order
    # Each block by itself: what it differs by from the block just before.
    near = replace(settings, adjacent=True)
    found = candidates_of(model, facts, lambda _, acts: decoder.lens(acts.to(decoder.W_U)), near, batch_size=batch_size)
    if not least <= n <= len(found.blocks):
        raise VestigeError(f"n_selected is {least} to {len(found.blocks)} blocks, got {n}")
    rates = {
        block: float(hits(one, found.targets).double().mean())
        for block, one in zip(found.blocks, found.each, strict=True)
    }
    kept = sorted(sorted(rates), key=lambda block: rates[block], reverse=True)[:n]
    return replace(settings, layers=tuple(sorted(kept)))
