"""The logit lens at the end of a prompt, differentiable: what the two lens defences train on, and where."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import HookContext, HookedModel, Item, TokenBatch, VestigeError
from interventions.batches import encoded
from interventions.blocks import blocks_of
from interventions.evaluating import evaluating
from interventions.training.losses import at_least_float32


def prompt_lens(
    model: HookedModel, batch: TokenBatch, layers: Sequence[int]
) -> tuple[Float[Tensor, "blocks batch d_vocab"], Float[Tensor, "batch pos d_vocab"]]:
    """Return the lens logits of some blocks at each row's last prompt token, and the logits, all with their graph."""
    rows, found = torch.arange(len(batch), device=batch.ids.device), {}

    def keep(activation: Tensor, /, hook: HookContext) -> None:
        found[hook.name] = activation[rows.to(activation.device), batch.prompt_last.to(activation.device)]

    sites = [model.site_map.resolve(("resid_post", layer)) for layer in layers]
    logits = model.run_with_hooks(batch, fwd_hooks=[(site, keep) for site in sites])
    return at_least_float32(torch.stack([model.lens(found[site]) for site in sites])), logits


def first_answer(batch: TokenBatch) -> Int[Tensor, " batch"]:
    """Return the id of each row's first answer token as it was encoded after the prompt, leading space included.

    Raises:
        VestigeError: A row has no prompt in front of its answer, or no answer.
    """
    first = batch.answer.long().argmax(-1)
    wrong = (~batch.answer.any(-1) | (first != batch.prompt_last + 1)).nonzero().flatten().tolist()
    if wrong:
        raise VestigeError(f"the lens needs a prompt that ends where an answer begins, and row {wrong[0]} has none")
    return batch.ids.gather(1, first[:, None])[:, 0]


def blocks_from(model: HookedModel, layers: Sequence[int] | None, *, start: int) -> list[int]:
    """Return the defence blocks: those given, else the edited one and all after it."""
    return list(range(start, model.n_layers)) if layers is None else blocks_of(model, layers)


@torch.no_grad()
def select_layers(
    model: HookedModel, dev_facts: Sequence[Item], *, n: int, k: int = 4, batch_size: int = 16
) -> tuple[int, ...]:
    """Return the n blocks whose lens gives most away about some facts, for `defence_layers=`.

    Blocks are ranked by the fraction of facts whose first answer token is among the k most or k least likely ones, then
    by its mean probability. Choose on facts that are neither unlearned nor audited: a choice made on those would fit
    the defence to the very attack it is judged by, so nothing but `dev_facts` is read.

    Args:
        model: The original.
        dev_facts: Items with a prompt and an answer.
        n: How many blocks.
        k: As in `head_projection`.
        batch_size: Items per pass.

    Raises:
        VestigeError: There is no such item, or not that many blocks.
    """
    facts = [item for item in dev_facts if not (item.is_document or item.generation_only)]
    if not facts:
        raise VestigeError("select_layers needs dev facts with a prompt and an answer, got none")
    if not 1 <= n <= model.n_layers:
        raise VestigeError(f"n is 1 to {model.n_layers} blocks, got {n}")
    found, likely = [], []
    for batch in encoded(model, facts, batch_size=batch_size):
        with evaluating(model):
            probabilities = prompt_lens(model, batch, range(model.n_layers))[0].softmax(-1)
        of_answer = probabilities.gather(-1, first_answer(batch).expand(model.n_layers, -1)[..., None])
        above, below = ((probabilities > of_answer).sum(-1), (probabilities < of_answer).sum(-1))
        found.append((above < k) | (below < k))
        likely.append(of_answer[..., 0])
    success, probability = torch.cat(found, -1).double().mean(-1), torch.cat(likely, -1).double().mean(-1)
    ranked = sorted(range(model.n_layers), key=lambda i: (float(success[i]), float(probability[i])), reverse=True)
    return tuple(sorted(ranked[:n]))
