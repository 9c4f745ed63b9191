"""Soft prompt: free embeddings in front of the question, optimised until the model answers."""

from __future__ import annotations

from math import inf, isfinite

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, UnlearnData, VestigeError
from interventions.prompts.eco import embedding_size
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.gradients.folds import LearnFrom, folds_of
from vestige.attacks.gradients.frozen import frozen
from vestige.attacks.gradients.slots import Slots, filling, mean_nlls, with_slots


def soft_prompt(
    target: Target,
    data: UnlearnData,
    *,
    n_tokens: int = 10,
    steps: int = 40,
    lr: float = 0.25,
    restarts: int = 1,
    learn_from: LearnFrom = "half",
    batch_size: int = 32,
    seed: int = 0,
) -> Attacked:
    """Optimise embeddings in front of the question on half of the forget facts, with their answers, and ask the others.

    It is shown forget answers, never by default those that it is scored on. With `learn_from="same"` it is, and then
    even answers that a model was never taught come out: the control is the floor, and nothing else is.

    All restarts descend `mean NLL` of the shown answers by Adam, all items at every step; the one that got furthest is
    scored. The embeddings are put into the deployed system, behind its own edits of the embedding.

    Args:
        target: The subject; needs gradients through its view.
        data: Its forget items are asked.
        n_tokens: Free embeddings.
        steps: Updates.
        lr: Of Adam, in root mean squares of the embedding's entries, so that it carries over to other models.
        restarts: Runs from other random embeddings, as spread as the model's own.
        learn_from: `half`, `same` (an upper bound) or `retain`, as in `folds_of`.
        batch_size: Rows per pass.
        seed: Of the first embeddings and the halves.

    Raises:
        VestigeError: An item has no prompt or answer, a setting is out of range, the rows do not fit the model, or
            every restart diverged.

    Source:
        Schwinn et al. 2024, arXiv:2402.09063. Commonly 20 embeddings, 20 epochs, 5 restarts and a rate of 1e-2, about
        0.5 of what it counts in here in models of billions.
    """
    if steps < 0 or restarts < 1 or not 0 < lr < float("inf"):
        raise VestigeError(f"soft_prompt needs steps >= 0, restarts >= 1, lr > 0; got {steps}, {restarts}, {lr}")
    model, scores = target.view, [0.0] * len(data.forget)
    passes = 0
    for number, fold in enumerate(folds_of(data, learn_from, most=100, seed=seed, attack="soft_prompt")):
        slots = with_slots(model, fold.learnt, n_tokens, place="front")
        asked = with_slots(model, [data.forget[row] for row in fold.scored], n_tokens, place="front")
        generator = torch.Generator().manual_seed(2 * seed + number)
        # Of the bare model: what the view does to the embedding may be as large as it likes.
        spread = embedding_size(target.raw, fold.learnt, batch_size=batch_size)
        first = spread * torch.randn(restarts, n_tokens, model.d_model, generator=generator).to(model.W_E)
        with frozen(model):
            learnt = _descend(model, slots, first, steps=steps, lr=lr * spread, batch_size=batch_size)
        for row, score in zip(fold.scored, _probabilities(model, asked, learnt, batch_size), strict=True):
            scores[row] = score
        passes += 2 * steps * restarts * len(slots) + len(asked)
    budget = {"queries": passes, "steps": steps, "restarts": restarts, "tokens": n_tokens, "learn_from": learn_from}
    return Attacked(tuple(scores), budget=budget)


def _descend(
    model: HookedModel,
    slots: Slots,
    first: Float[Tensor, "restarts n_tokens d_model"],
    *,
    steps: int,
    lr: float,
    batch_size: int,
) -> Float[Tensor, "n_tokens d_model"]:
    """Return the embeddings of the restart with the least loss at its end."""
    wide = torch.promote_types(first.dtype, torch.float32)
    free = first.to(wide).clone().requires_grad_()
    optimizer = torch.optim.Adam([free], lr=lr)
    for _ in range(steps):
        free.grad = torch.zeros_like(free)
        for number in range(len(first)):
            for part in _parts(slots, batch_size):
                loss = mean_nlls(model, part.batch, ("hook_embed", filling(part, free[number]))).sum() / len(slots)
                free.grad += torch.autograd.grad(loss, free)[0]
        optimizer.step()
    with torch.no_grad():
        losses = [
            sum(
                float(mean_nlls(model, part.batch, ("hook_embed", filling(part, one))).sum())
                for part in _parts(slots, batch_size)
            )
            for one in free
        ]
    best = min(range(len(losses)), key=lambda i: losses[i] if isfinite(losses[i]) else inf)
    if not isfinite(losses[best]):
        raise VestigeError(f"soft_prompt diverged in all {len(first)} restarts; lower lr")
    return free.detach()[best]


@torch.no_grad()
def _probabilities(model: HookedModel, slots: Slots, free: Tensor, batch_size: int) -> list[float]:
    found: list[float] = []
    for part in _parts(slots, batch_size):
        found += (-mean_nlls(model, part.batch, ("hook_embed", filling(part, free)))).double().exp().tolist()
    return found


def _parts(slots: Slots, batch_size: int) -> list[Slots]:
    return [slots[start : start + batch_size] for start in range(0, len(slots), batch_size)]
