"""Pruning: set weights to zero that serve what a subject says instead of the answers, or that are merely small."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hooked import DenseDelta, HookedModel, Intervention, Item, Spec, UnlearnData, VestigeError, WeightPatch
from interventions.batches import encode
from interventions.evaluating import evaluating
from interventions.training.losses import answer_nll
from vestige.attacks.asked import asked
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.development import development_items
from vestige.attacks.most_leaking import most_leaking
from vestige.attacks.weights.matrices import Matrices, matrices_of

By = Literal["difference", "magnitude"]
FRACTIONS: Mapping[By, tuple[float, ...]] = {
    "difference": (0.003, 0.01, 0.03, 0.1),
    "magnitude": (0.05, 0.1, 0.2, 0.4),
}

Scores = dict[str, Float[Tensor, "height width"]]


def pruning(
    target: Target,
    data: UnlearnData,
    *,
    by: By = "difference",
    fractions: Sequence[float] | None = None,
    spared: float = 0.02,
    max_retain: int = 64,
    max_new_tokens: int = 8,
    batch_size: int = 32,
    seed: int = 0,
) -> Attacked:
    """Set a fraction of every matrix inside the blocks to zero, and ask.

    Of the fractions the most leaking one counts, chosen on the forget items; the forget answers are not used otherwise.

    Args:
        target: The subject.
        data: Its forget items are asked; `difference` also needs `retain` items with a prompt and an answer.
        by: `difference` prunes what matters to the subject's own replies to the forget prompts and not to the retain
            answers: the highest scores on the former without the `spared` highest on the latter, where the score of a
            weight is the mean over items of `|w dL/dw|`, L the mean loss of the reply's tokens. `magnitude` prunes the
            smallest weights.
        fractions: Fractions of each matrix that are tried, in (0, 1); a few of a suitable size when not given.
        spared: Fraction of each matrix that matters most to retain items and is not pruned, in [0, 1].
        max_retain: Most retain items that are scored, drawn by the seed; one backward pass each.
        max_new_tokens: Length of the replies.
        batch_size: Rows per forward pass while asking.
        seed: Of the draw.

    Raises:
        VestigeError: `by` is unknown, a fraction is out of range, retain items are missing, or an item has no answer.

    Source:
        Wei et al. 2024, arXiv:2402.05162 (difference of scores), as Lucki et al. 2024, arXiv:2409.18025, use it against
        unlearning. There the one set of data is refusals; here what the subject says, whatever it is.
    """
    if by not in get_args(By):
        raise VestigeError(f"by is one of {', '.join(get_args(By))}, got {by!r}")
    tried = tuple(FRACTIONS[by] if fractions is None else fractions)
    if not tried or not all(0 < fraction < 1 for fraction in tried):
        raise VestigeError(f"fractions lie between 0 and 1, at least one, got {tried}")
    if not 0 <= spared <= 1:
        raise VestigeError(f"spared is a fraction between 0 and 1, got {spared}")
    found = matrices_of(target.view)
    kept: Scores = {}
    passes = 0
    if by == "magnitude":
        scores = {name: -weight.detach().abs() for name, weight in found.weights.items()}
    else:
        retain = development_items(data, most=max_retain, seed=seed, attack="pruning by difference")
        replies = _replies(target.view, data.forget, max_new_tokens, batch_size)
        scores, kept = (importance(target.view, items, found) for items in (replies, retain))
        passes = len(replies) + len(retain)

    def run(fraction: float) -> Attacked:
        with _pruned(found, scores, fraction, kept, spared).applied(target.view) as view:
            return asked(view, data.forget, batch_size=batch_size)

    best, outcome = most_leaking(tried, run)
    budget = {**outcome.budget, "by": by, "settings": len(tried), "fraction": best, "backward_passes": passes}
    return replace(outcome, budget=budget, note=f"most leaking with a fraction of {best:g}")


@torch.inference_mode(False)
def importance(model: HookedModel, items: Sequence[Item], found: Matrices) -> Scores:
    """Return the mean over items of `|w dL/dw|` for every weight of some matrices, L the mean loss of an answer's
    tokens in nats.

    Source:
        Lee et al. 2019, arXiv:1810.02340 (SNIP), per item instead of per batch.
    """
    weights = list(found.weights.values())
    means = {name: torch.zeros_like(weight) for name, weight in found.weights.items()}
    with torch.enable_grad(), evaluating(model), _differentiable(weights):
        for item in items:
            batch = encode(model, [item])
            loss = answer_nll(model.logits(batch), batch.ids, batch.answer).mean.sum()
            grads = torch.autograd.grad(loss, weights, allow_unused=True)
            for (name, weight), grad in zip(found.weights.items(), grads, strict=True):
                if grad is not None:
                    means[name] += (weight.detach() * grad).abs() / len(items)
    return means


def highest(scores: Float[Tensor, "*shape"], fraction: float) -> Bool[Tensor, "*shape"]:
    """Mark the `round(fraction * n)` highest scores of a matrix; of equal ones the earlier comes first."""
    count = round(fraction * scores.numel())
    chosen = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    chosen[scores.flatten().sort(descending=True, stable=True).indices[:count]] = True
    return chosen.reshape(scores.shape)


def _pruned(found: Matrices, scores: Scores, fraction: float, kept: Scores, spared: float) -> Intervention:
    deltas = {}
    for name, weight in found.weights.items():
        chosen = highest(scores[name], fraction)
        if name in kept:
            chosen &= ~highest(kept[name], spared)
        if bool(chosen.any()):
            deltas[name] = DenseDelta(torch.where(chosen, -weight.detach(), 0.0).cpu())
    return Intervention(Spec("pruning", "attack"), weights=WeightPatch(deltas))


def _replies(model: HookedModel, forget: Sequence[Item], max_new_tokens: int, batch_size: int) -> list[Item]:
    """Return the forget prompts with what the model itself says to them."""
    prompts = [item.prompt for item in forget]
    said = model.generate(prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
    replies = [Item(prompt, text.strip()) for prompt, text in zip(prompts, said, strict=True) if text.strip()]
    if not replies:
        raise VestigeError("the subject says nothing to any forget prompt, so no weight serves its replies")
    return replies


@contextmanager
def _differentiable(weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Let gradients reach frozen weights for the length of the block."""
    before = [weight.requires_grad for weight in weights]
    try:
        for weight in weights:
            weight.requires_grad_(True)
        yield
    finally:
        for weight, wanted in zip(weights, before, strict=True):
            weight.requires_grad_(wanted)
