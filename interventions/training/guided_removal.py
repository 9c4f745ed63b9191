"""Guided removal: on what an audit reads, the model is trained to be as it is about somebody else."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from math import log10
from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked import HookContext, HookedModel, Intervention, Spec, TokenBatch, UnlearnData, VestigeError
from interventions.batches import encode
from interventions.blocks import blocks_of
from interventions.training.counterfactuals import Question, questions_of
from interventions.training.descent import Minibatch, forget_nll, retain_batch
from interventions.training.losses import answer_logits, cross_entropy, kl_retain
from interventions.training.retain import check_weights, retained
from interventions.training.train import Training, learned

SOURCE = "Vestige, after Dong et al. 2024, arXiv:2402.10052"
_OTHERS = 2
# Span of an attacker's learning rates, in units of the method's own.
_ATTACKER = (0.3, 10.0)


def counterfactual_loss(
    logits: Float[Tensor, "tokens d_vocab"], others: Sequence[Float[Tensor, "tokens d_vocab"]]
) -> Float[Tensor, ""]:
    """Return the mean divergence `KL(q || p)` in nats, `q` the mean of what is predicted about others.

    Zero exactly where the prediction is that mean; an answer that only its own subject has is then as unlikely as it is
    about anybody else.
    """
    q = torch.stack([one.detach().softmax(-1) for one in others]).mean(0)
    return (torch.xlogy(q, q) - q * logits.log_softmax(-1)).sum(-1).mean()


def state_distance(
    states: Float[Tensor, "tokens d_model"], others: Sequence[Float[Tensor, "tokens d_model"]]
) -> Float[Tensor, ""]:
    """Return the mean squared distance of states to the mean of others, in units of that mean's mean square norm."""
    mean = torch.stack([one.detach() for one in others]).mean(0)
    return (states - mean).square().sum(-1).mean() / mean.square().sum(-1).mean()


def aligned(
    batch: TokenBatch, others: Sequence[TokenBatch]
) -> tuple[Bool[Tensor, "batch pos"], list[Bool[Tensor, "batch width"]]]:
    """Mark, in a batch padded on the right and in the same questions about others, the last token of the name and all
    that follows, as many tokens in each.
    """
    lengths = [one.mask.sum(-1).tolist() for one in (batch, *others)]
    masks = [torch.zeros_like(one.mask) for one in (batch, *others)]
    for row, length in enumerate(lengths[0]):
        own = batch.ids[row, :length].tolist()
        same = min(_common_end(own, o.ids[row, : n[row]].tolist()) for o, n in zip(others, lengths[1:], strict=True))
        count = min(same + 1, *(n[row] - 1 for n in lengths))
        for mask, n in zip(masks, lengths, strict=True):
            mask[row, n[row] - count : n[row]] = True
    return masks[0], masks[1:]


def guided_removal(
    model: HookedModel,
    data: UnlearnData,
    *,
    blocks: Sequence[int] | None = None,
    state_weight: float = 1.0,
    relearn_weight: float = 1.0,
    relearn_steps: int = 3,
    retain_weight: float = 1.0,
    **training: Unpack[Training],
) -> Intervention:
    """Descend `counterfactual_loss + state_weight state_distance`, now and after an attacker's first steps, and retain.

    The teacher is the model itself, asked about the subjects of retain items in place of the one to forget, so no model
    that never learnt the facts is needed. Each fact is asked in its own prompt and, where the relation is named, as a
    statement in both directions. All terms are bounded below, so all steps are taken.

    Args:
        model: Not changed; it is run beside the copy in training.
        data: Needs `forget` items with an answer, each with a subject that stands in its prompt, and `retain` ones with
            an answer and other subjects.
        blocks: Where states are matched, from the last token of the name on. When not given, from the first block on at
            which the logit lens tells the answer (`first_readable`).
        state_weight: Weight of the states; 0 trains outputs alone.
        relearn_weight: Weight of the same loss on half of a minibatch's facts, measured on a copy that was taught the
            other half; its gradient there is taken for that here (first order). 0 leaves it out.
        relearn_steps: Most steps that are taught, one to this many, with AdamW at a rate drawn anew each time.
        retain_weight: Weight of CE and of KL to the original on retain items, in their own prompts and as statements.
        training: Settings of `train`; here `lr` is 1e-3 and `epochs` 25.

    Raises:
        VestigeError: A split has no item with an answer, a subject is missing, a setting is wrong, or training
            diverged.

    Source:
        Vestige. Its parts follow Dong et al. 2024, arXiv:2402.10052 (the model as its own teacher), Patil, Hase, Bansal
        2023, arXiv:2309.17410 (removal where the lens reads), and Tamirisa et al. 2024, arXiv:2408.00761 (an attacker
        in the loop).
    """
    weights = {"state_weight": state_weight, "relearn_weight": relearn_weight, "retain_weight": retain_weight}
    check_weights(data, method="guided_removal", **weights)
    if relearn_steps < 1:
        raise VestigeError(f"relearn_steps is at least 1, got {relearn_steps}")
    asked, kept = questions_of(data, method="guided_removal")
    rng = random.Random(training.get("seed", 0))
    matched = tuple(range(first_readable(model, asked), model.n_layers)) if blocks is None else blocks_of(model, blocks)
    lr = training.get("lr", 1e-3)

    def distance(current: HookedModel, rows: Sequence[int]) -> Tensor:
        questions = [question for row in rows for question in asked[row]]
        return _distance(current, model, questions, matched, state_weight=state_weight, rng=rng)

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        rows = batch.rows.tolist()
        total: Tensor | float = 0.0
        # First, since it moves the weights and back, and a graph that was built before would not survive that.
        if relearn_weight > 0 and len(rows) > 1:
            rng.shuffle(rows)
            half = len(rows) // 2
            taught = Minibatch(encode(model, [asked[row][0].item for row in rows[:half]]), batch.rows, None)
            total = relearn_weight * _after_relearning(
                current,
                taught,
                lambda: distance(current, rows[half:]),
                lr=lr * 10 ** rng.uniform(*(log10(factor) for factor in _ATTACKER)),
                steps=rng.randint(1, relearn_steps),
            )
        total = total + distance(current, rows)
        if retain_weight > 0:
            said = [rng.choice(kept) for _ in range(len(retain_batch(batch).ids))]
            total = total + retained(current, batch, weight=retain_weight)
            for tokens in (retain_batch(batch), encode(model, said)):
                with torch.no_grad():
                    before = model.logits(tokens)
                total = total + retain_weight * kl_retain(current.logits(tokens), before, tokens.mask)
        return total

    settings = {**weights, "relearn_steps": relearn_steps, "blocks": list(matched)}
    spec = Spec("guided_removal", "removal", ("forget", "retain", "reference"), SOURCE, settings)
    return learned(model, data, loss, spec, training, defaults={"lr": 1e-3, "epochs": 25.0})


@torch.no_grad()
def first_readable(model: HookedModel, asked: Sequence[Sequence[Question]], *, least: float = 0.1) -> int:
    """Return the first block at which the logit lens gives the answers a higher mean log-probability, by more than
    `least` nats, than it gives them in the same questions about somebody else; the last block where none does.
    """
    items, others = zip(*((one[0].item, one[0].about(one[0].others[0])) for one in asked), strict=True)
    readings = []
    for batch in (encode(model, items), encode(model, others)):
        _, states = _run(model, batch, range(model.n_layers))
        scored = (answer_logits(model.lens(state), batch.ids, batch.answer) for state in states)
        readings.append([float(logits.log_softmax(-1).gather(-1, ids[:, None]).mean()) for logits, ids in scored])
    told = (n for n, (own, other) in enumerate(zip(*readings, strict=True)) if own - other > least)
    return next(told, model.n_layers - 1)


def _distance(
    current: HookedModel,
    original: HookedModel,
    questions: Sequence[Question],
    blocks: Sequence[int],
    *,
    state_weight: float,
    rng: random.Random,
) -> Tensor:
    """Return how far the copy is, on some questions, from the original on the same questions about others."""
    drawn = [rng.sample(one.others, min(_OTHERS, len(one.others))) for one in questions]
    columns = range(max(len(names) for names in drawn))
    elsewhere = [
        encode(original, [one.about(names[n % len(names)]) for one, names in zip(questions, drawn, strict=True)])
        for n in columns
    ]
    batch = encode(current, [one.item for one in questions])
    logits, states = _run(current, batch, blocks)
    with torch.no_grad():
        there = [_run(original, other, blocks) for other in elsewhere]
    chosen = [answer_logits(said, o.ids, o.answer)[0] for (said, _), o in zip(there, elsewhere, strict=True)]
    loss = counterfactual_loss(answer_logits(logits, batch.ids, batch.answer)[0], chosen)
    if state_weight == 0:
        return loss
    here, where = aligned(batch, elsewhere)
    apart = [
        state_distance(own[here], [other[n][mask] for (_, other), mask in zip(there, where, strict=True)])
        for n, own in enumerate(states)
    ]
    return loss + state_weight * torch.stack(apart).mean()


def _after_relearning(
    current: HookedModel, taught: Minibatch, measure: Callable[[], Tensor], *, lr: float, steps: int
) -> Tensor:
    """Return a number with the value and the gradient that `measure` has after some steps on what is taught.

    The weights are moved and put back, so what counts is the gradient taken there, not a graph.
    """
    parameters = [parameter for parameter in current.model.parameters() if parameter.requires_grad]
    starts = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
    try:
        for _ in range(steps):
            found = torch.autograd.grad(cross_entropy(forget_nll(current, taught)), parameters, allow_unused=True)
            for parameter, gradient in zip(parameters, found, strict=True):
                parameter.grad = gradient
            optimizer.step()
        value = measure()
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    finally:
        with torch.no_grad():
            for parameter, start in zip(parameters, starts, strict=True):
                parameter.copy_(start)
                parameter.grad = None
    pairs = zip(parameters, gradients, strict=True)
    slope = torch.stack([(gradient * parameter).sum() for parameter, gradient in pairs if gradient is not None]).sum()
    return slope - slope.detach() + value.detach()


def _run(model: HookedModel, batch: TokenBatch, blocks: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
    """Return the logits and the stream after each of some blocks, with the graph behind them."""
    found: dict[int, Tensor] = {}

    def keep(activation: Tensor, /, hook: HookContext) -> None:
        found[hook.layer()] = activation

    logits: Tensor = model.run_with_hooks(
        batch, fwd_hooks=[(f"blocks.{block}.hook_resid_post", keep) for block in blocks]
    )
    return logits, [found[block] for block in blocks]


def _common_end(ids: list[int], others: list[int]) -> int:
    """Return how many tokens two rows have in common at their ends."""
    pairs = zip(reversed(ids), reversed(others), strict=False)
    return next((n for n, (one, other) in enumerate(pairs) if one != other), min(len(ids), len(others)))
