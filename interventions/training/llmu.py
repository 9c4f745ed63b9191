"""LLMU: unlearn the answers, teach random ones instead, and predict on other text as before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Intervention, Item, Spec, UnlearnData, VestigeError
from interventions.batches import encode, split_of
from interventions.training.descent import Minibatch, forget_nll
from interventions.training.losses import AnswerNLL, answer_nll, cross_entropy
from interventions.training.retain import check_weights, retained_kl
from interventions.training.train import Training, learned


def llmu_loss(
    forget: AnswerNLL,
    random: AnswerNLL | None,
    *,
    forget_weight: float = 0.5,
    random_weight: float = 1.0,
    stop_ce: float | None = None,
) -> Float[Tensor, ""]:
    """Return `-forget_weight mean_b min(m_b, stop_ce) + random_weight CE(random)`; the divergence is added to it.

    Args:
        forget: The forget answers under the model in training.
        random: Random answers to the same prompts; None leaves the term out.
        forget_weight: Weight of ascent.
        random_weight: Weight of the random answers.
        stop_ce: Nats per token above which an answer is not pushed away any further; None pushes for ever.

    Raises:
        VestigeError: `stop_ce` is not above 0.
    """
    if stop_ce is not None and not stop_ce > 0:
        raise VestigeError(f"stop_ce is a number of nats per token above 0, or None, got {stop_ce}")
    loss = -forget_weight * forget.mean.clamp(max=stop_ce).mean() if stop_ce else -forget_weight * forget.mean.mean()
    return loss if random is None else loss + random_weight * cross_entropy(random)


def random_answers(data: UnlearnData, items: Sequence[Item], *, count: int, seed: int) -> tuple[tuple[Item, ...], ...]:
    """Give each item up to `count` different answers of retain items, drawn once; a document gets none.

    Args:
        data: Whose retain items with a prompt lend their answers; an item never gets the answer it has.
        items: What is to be answered.
        count: At least 1.
        seed: Of the draws.

    Raises:
        VestigeError: All items are documents, or nothing can be drawn.
    """
    if count < 1:
        raise VestigeError(f"llmu draws at least 1 random answer for each prompt, got {count}; see random_weight=0")
    if all(item.is_document for item in items):
        raise VestigeError("llmu answers forget prompts at random, and all forget items are documents; random_weight=0")
    asked = (item for item in split_of(data, "retain", method="llmu", answered=True) if not item.is_document)
    pool = tuple(dict.fromkeys(item.answer for item in asked))
    generator = torch.Generator().manual_seed(seed)
    drawn: list[tuple[Item, ...]] = []
    for item in items:
        order = torch.randperm(len(pool), generator=generator).tolist()
        others = [pool[i] for i in order if pool[i] != item.answer][:count]
        if not (others or item.is_document):
            raise VestigeError(
                f"llmu needs retain items with a prompt and an answer other than {item.answer!r}, and there are none"
            )
        drawn.append(() if item.is_document else tuple(replace(item, answer=answer) for answer in others))
    return tuple(drawn)


def llmu(
    model: HookedModel,
    data: UnlearnData,
    *,
    forget_weight: float = 0.5,
    random_weight: float = 1.0,
    retain_weight: float = 30.0,
    n_random: int = 5,
    stop_ce: float | None = 5.0,
    **training: Unpack[Training],
) -> Intervention:
    """Descend `-forget_weight CE(forget) + random_weight CE(random answers) + retain_weight KL(p0 || p)`.

    Ascent alone ends in noise; random answers give the prompts something else to say, and the divergence, over all real
    tokens of the retain items, keeps the rest. An answer that has reached `stop_ce` is left alone, so the loss is
    bounded below and all steps are taken.

    Args:
        model: Not changed; it is run beside the copy in training.
        data: Needs `forget` items with an answer, and `retain` ones for both other terms.
        forget_weight: Weight of ascent; published 0.5.
        random_weight: Weight of the random answers; published 1. Documents have no prompt and take no part in it.
        retain_weight: Weight of the divergence; published 1. Near the start it has next to no gradient, so that a small
            weight mends late what ascent broke at once.
        n_random: Random answers per prompt, drawn by `seed` from the retain items; published 5.
        stop_ce: Nats per token above which a forget answer is not pushed away any further. None pushes for ever, and
            then a `stop_fraction` is wise. The release ends the whole training at 100.
        training: Settings of `train`; here `lr` is 2e-4 and `epochs` 40. Published: lr 2e-6, batches of 2, up to 1000
            steps, for models of some billion parameters.

    Raises:
        VestigeError: A split has no item with an answer, a setting is wrong, or training diverged.

    Source:
        Yao, Xu, Liu 2023, arXiv:2310.10683. Their release takes the cross-entropy H(p0, p) for the divergence (the same
        gradient), averages it over padding, and trains the random answers from the wrong token on; not so here.
    """
    check_weights(
        data,
        method="llmu",
        forget_weight=forget_weight,
        random_weight=random_weight,
        retain_weight=retain_weight,
    )
    items = split_of(data, "forget", method="llmu", answered=True)
    seed = training.get("seed", 0)
    replies = random_answers(data, items, count=n_random, seed=seed) if random_weight > 0 else ((),) * len(items)

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        said = [reply for row in batch.rows.tolist() for reply in replies[row]]
        tokens = encode(current, said) if said else None
        random = None if tokens is None else answer_nll(current.logits(tokens), tokens.ids, tokens.answer)
        forget = forget_nll(current, batch)
        value = llmu_loss(forget, random, forget_weight=forget_weight, random_weight=random_weight, stop_ce=stop_ce)
        return value + retained_kl(current, model, batch, weight=retain_weight)

    settings = {
        "forget_weight": forget_weight,
        "random_weight": random_weight,
        "retain_weight": retain_weight,
        "n_random": n_random,
        "stop_ce": stop_ce,
    }
    retain = ("retain",) if random_weight > 0 or retain_weight > 0 else ()
    needs = ("forget", *retain, *(("reference",) if retain_weight > 0 else ()))
    spec = Spec("llmu", "removal", needs, "Yao, Xu, Liu 2023, arXiv:2310.10683", settings)
    return learned(model, data, loss, spec, training, defaults={"lr": 2e-4, "epochs": 40.0})
