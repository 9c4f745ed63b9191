"""Discrete suffix: tokens behind the question, exchanged one by one along the gradient until the model answers."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked import HookContext, HookedModel, UnlearnData, VestigeError
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.gradients.folds import LearnFrom, folds_of
from vestige.attacks.gradients.frozen import frozen
from vestige.attacks.gradients.slots import Place, Slots, mean_nlls, with_slots


def discrete_suffix(
    target: Target,
    data: UnlearnData,
    *,
    n_tokens: int = 5,
    steps: int = 20,
    candidates: int = 32,
    swaps: int = 8,
    place: Place = "question",
    learn_from: LearnFrom = "half",
    batch_size: int = 32,
    seed: int = 0,
) -> Attacked:
    """Search one suffix for all questions on half of the forget facts, with their answers, and ask the others with it.

    It is shown forget answers, never by default those that it is scored on; with `learn_from="same"` it is.

    At every step the gradient of the mean NLL with respect to the one-hot suffix names, for each place, the tokens that
    would lower it most; random ones of these are tried, one exchange at a time, and the best is kept if it lowers the
    loss. The suffix is a row of ids and need not survive being written and read again; special tokens are not used.

    Args:
        target: The subject; needs gradients through its view.
        data: Its forget items are asked.
        n_tokens: Length of the suffix.
        steps: Rounds of exchanges.
        candidates: Tokens per place that the gradient names.
        swaps: Exchanges tried per round.
        place: Where the tokens go, as in `with_slots`: behind the `question`, before `answer:` and its like, as
            published; in `front` of it they harm a small model least and get most out of it.
        learn_from: `half`, `same` (an upper bound) or `retain`, as in `folds_of`.
        batch_size: Rows per pass.
        seed: Of the first tokens, the exchanges and the halves.

    Raises:
        VestigeError: An item has no prompt or answer, a setting is out of range, or the rows do not fit the model.

    Source:
        Zou et al. 2023, arXiv:2307.15043. They keep the best exchange of a round even if it does not help; published 20
        tokens, 500 rounds of 512 exchanges out of 256 candidates.
    """
    if steps < 0 or candidates < 1 or swaps < 1:
        came = f"{steps}, {candidates}, {swaps}"
        raise VestigeError(f"discrete_suffix needs steps >= 0, candidates >= 1, swaps >= 1; got {came}")
    model, scores, passes = target.view, [0.0] * len(data.forget), 0
    allowed = _ordinary(model)
    for number, fold in enumerate(folds_of(data, learn_from, most=32, seed=seed, attack="discrete_suffix")):
        slots = with_slots(model, fold.learnt, n_tokens, place=place)
        asked = with_slots(model, [data.forget[row] for row in fold.scored], n_tokens, place=place)
        generator = torch.Generator().manual_seed(2 * seed + number)
        choice = allowed.nonzero()[:, 0]
        suffix = choice[torch.randint(len(choice), (n_tokens,), generator=generator)]
        best = float(_losses(model, slots, suffix[None], batch_size)[0])
        for _ in range(steps):
            gradient = _one_hot_gradient(model, slots.filled(suffix), batch_size)
            tried = _exchanged(suffix, _named(gradient, allowed, candidates), swaps, generator)
            losses = _losses(model, slots, tried, batch_size)
            if float(losses.min()) < best:
                best, suffix = float(losses.min()), tried[int(losses.argmin())]
        for row, score in zip(fold.scored, _nlls(model, asked.filled(suffix), batch_size).neg().exp(), strict=True):
            scores[row] = float(score)
        passes += steps * (2 + swaps) * len(slots) + len(slots) + len(asked)
    budget: dict[str, Any] = {"queries": passes, "steps": steps, "swaps": swaps, "tokens": n_tokens}
    return Attacked(tuple(scores), budget={**budget, "place": place, "learn_from": learn_from})


def _ordinary(model: HookedModel) -> Bool[Tensor, " d_vocab"]:
    """Mark the tokens that may stand in a text."""
    allowed = torch.ones(model.d_vocab, dtype=torch.bool)
    size = len(model.tokenizer) if model.tokenizer is not None else model.d_vocab
    # Embeddings are often padded beyond the tokens that exist.
    allowed[size:] = False
    allowed[[i for i in getattr(model.tokenizer, "all_special_ids", ()) if i < model.d_vocab]] = False
    return allowed


def _named(
    gradient: Float[Tensor, "n_tokens d_vocab"], allowed: Bool[Tensor, " d_vocab"], n: int
) -> Int[Tensor, "n_tokens candidates"]:
    """Return, for each place, the allowed tokens that would lower the loss most, were it linear."""
    return gradient.masked_fill(~allowed, torch.inf).topk(min(n, int(allowed.sum())), largest=False).indices


def _exchanged(
    suffix: Int[Tensor, " n_tokens"], named: Int[Tensor, "n_tokens candidates"], n: int, generator: torch.Generator
) -> Int[Tensor, "n n_tokens"]:
    """Return copies of a suffix, each with one of the named tokens at one random place."""
    tried = suffix.repeat(n, 1)
    places = torch.randint(len(suffix), (n,), generator=generator)
    picked = torch.randint(named.shape[1], (n,), generator=generator)
    tried[torch.arange(n), places] = named[places, picked]
    return tried


def _one_hot_gradient(model: HookedModel, slots: Slots, batch_size: int) -> Float[Tensor, "n_tokens d_vocab"]:
    """Gradient of the summed loss with respect to a one-hot choice at each free place, up to the constant by which some
    models scale their embedding."""
    n = int(slots.free[0].sum())
    total = torch.zeros(n, model.d_model, dtype=torch.float64)
    with frozen(model):
        for start in range(0, len(slots), batch_size):
            part = slots[start : start + batch_size]
            # An added zero, so that the gradient is taken behind whatever the view does to the embedding.
            nudge = torch.zeros(n, model.d_model, dtype=model.dtype, device=model.device, requires_grad=True)

            def add(activation: Tensor, hook: HookContext, part: Slots = part, nudge: Tensor = nudge) -> Tensor:
                whole = activation.clone()
                whole[part.free] = whole[part.free] + nudge.repeat(len(part), 1)
                return whole

            loss = mean_nlls(model, part.batch, ("hook_embed", add)).sum()
            total += torch.autograd.grad(loss, nudge)[0].double().cpu()
    return (total.to(model.W_E) @ model.W_E.T).float().cpu()


def _losses(model: HookedModel, slots: Slots, tried: Int[Tensor, "n n_tokens"], batch_size: int) -> Tensor:
    """Mean loss over all items of each suffix, `[n]`."""
    whole = slots.repeat(len(tried)).filled(tried.repeat_interleave(len(slots), 0))
    return _nlls(model, whole, batch_size).view(len(tried), len(slots)).mean(-1)


@torch.no_grad()
def _nlls(model: HookedModel, slots: Slots, batch_size: int) -> Float[Tensor, " rows"]:
    starts = range(0, len(slots), batch_size)
    return torch.cat([mean_nlls(model, slots[at : at + batch_size].batch).double().cpu() for at in starts])
