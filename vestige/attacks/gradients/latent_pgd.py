"""Latent adversary: a small push of the residual stream on the prompt that makes the model answer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked import Edit, HookContext, HookedModel, TokenBatch, UnlearnData, VestigeError
from interventions.batches import encoded
from interventions.blocks import blocks_of
from interventions.training.activations import residuals, spoken
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.gradients.folds import LearnFrom, folds_of
from vestige.attacks.gradients.frozen import frozen
from vestige.attacks.gradients.slots import mean_nlls

# Steps that would cross the ball this many times over, as is usual for projected gradients.
_REACH = 2.5


def latent_pgd(
    target: Target,
    data: UnlearnData,
    *,
    block: int | None = None,
    radius: float = 1.0,
    relative: bool = True,
    steps: int = 16,
    learn_from: LearnFrom = "half",
    batch_size: int = 32,
    seed: int = 0,
) -> Attacked:
    """Push the residual stream after one block, by at most `radius` at each prompt token, towards the answers.

    It is shown forget answers. By default one push, the same at every token, is learnt on half of the forget facts and
    scored on the others. With `learn_from="same"` it is the published attack, a push of its own for each token of each
    item and towards its very answer, which is an upper bound: with enough room even answers that a model was never
    taught come out, and the control is the only floor.

    Each step goes down the gradient of the mean NLL, normalised per push, and back into the ball.

    Args:
        target: The subject; needs gradients through its view.
        data: Its forget items are asked.
        block: The stream after this one is pushed; the middle one when None.
        radius: Of the L2 ball, at each token; 0.2 is much where every token has a push of its own.
        relative: Whether `radius` counts in mean norms of the stream over the prompts, without the BOS, whose norm is
            often huge; or, as published (1.5), in units of the stream.
        steps: Projected steps.
        learn_from: `half`, `same` or `retain`, as in `folds_of`.
        batch_size: Rows per pass.
        seed: Of the halves.

    Raises:
        VestigeError: An item has no answer, the block does not exist, or a setting is out of range.

    Source:
        Sheshadri et al. 2024, arXiv:2407.15549.
    """
    if steps < 0 or not 0 < radius < float("inf"):
        raise VestigeError(f"latent_pgd needs steps of at least 0 and a radius above 0, got {steps} and {radius}")
    model, scores, passes = target.view, [0.0] * len(data.forget), 0
    at = blocks_of(model, [model.n_layers // 2 if block is None else block])[0]
    for fold in folds_of(data, learn_from, most=32, seed=seed, attack="latent_pgd"):
        learnt = list(encoded(model, fold.learnt, batch_size=batch_size))
        asked = list(encoded(model, [data.forget[row] for row in fold.scored], batch_size=batch_size))
        room = radius * (_norm(model, learnt, at) if relative else 1.0)
        found: list[float] = []
        with frozen(model):
            if learn_from == "same":
                for part in asked:
                    own = torch.zeros(*part.ids.shape, model.d_model, dtype=model.dtype, device=model.device)
                    found += _scored(model, part, at, _descended(model, [part], at, own, room=room, steps=steps))
            else:
                shared = torch.zeros(1, 1, model.d_model, dtype=model.dtype, device=model.device)
                push = _descended(model, learnt, at, shared, room=room, steps=steps)
                found = [score for part in asked for score in _scored(model, part, at, push)]
        for row, score in zip(fold.scored, found, strict=True):
            scores[row] = score
        passes += 2 * steps * len(fold.learnt) + len(fold.scored)
    budget = {"queries": passes, "steps": steps, "radius": radius, "block": at, "learn_from": learn_from}
    return Attacked(tuple(scores), budget=budget)


def _descended(
    model: HookedModel, batches: Sequence[TokenBatch], block: int, push: Tensor, *, room: float, steps: int
) -> Tensor:
    """Return the push after all steps; it has the shape of the one given, and starts from it."""
    wide = torch.promote_types(push.dtype, torch.float32)
    for _ in range(steps):
        push = push.detach().to(wide).requires_grad_()
        total = torch.zeros_like(push)
        for batch in batches:
            total += torch.autograd.grad(_nlls(model, batch, block, push).sum(), push)[0]
        unit = total / total.norm(dim=-1, keepdim=True).clamp(min=torch.finfo(wide).tiny)
        push = push.detach() - _REACH * room / steps * unit
        push = push * (room / push.norm(dim=-1, keepdim=True).clamp(min=room))
    return push.detach()


@torch.no_grad()
def _scored(model: HookedModel, batch: TokenBatch, block: int, push: Tensor) -> list[float]:
    found: list[float] = _nlls(model, batch, block, push).double().neg().exp().tolist()
    return found


def _nlls(model: HookedModel, batch: TokenBatch, block: int, push: Tensor) -> Float[Tensor, " batch"]:
    return mean_nlls(model, batch, (f"blocks.{block}.hook_resid_post", pushing(push, _pushed(model, batch))))


def pushing(push: Float[Tensor, "*shape"], where: Bool[Tensor, "batch pos"]) -> Edit:
    """Return an edit that adds a push `[batch or 1, pos or 1, d_model]` at the marked tokens and nowhere else."""

    def add(activation: Tensor, hook: HookContext) -> Tensor:
        marked = where.to(activation.device)[..., None]
        return activation + torch.where(marked, push.to(activation), 0.0)

    return add


def _pushed(model: HookedModel, batch: TokenBatch) -> Bool[Tensor, "batch pos"]:
    return spoken(model, batch) & batch.prompt


@torch.no_grad()
def _norm(model: HookedModel, batches: Sequence[TokenBatch], block: int) -> float:
    norms = [residuals(model, batch, [block])[block].norm(dim=-1)[_pushed(model, batch)].float() for batch in batches]
    return float(torch.cat(norms).mean())
