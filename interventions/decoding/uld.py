"""ULD: teach a small assistant what is to be forgotten and nothing else, and subtract its logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked import HookedModel, Intervention, Item, Spec, UnlearnData, VestigeError
from hooked.truncated import truncated
from interventions.batches import split_of
from interventions.decoding.assistant import Assistant
from interventions.decoding.combiner import LogitCombiner, Term, finite
from interventions.decoding.plausible import Plausible
from interventions.training.descent import Minibatch, forget_nll
from interventions.training.losses import cross_entropy, kl_retain, predicting
from interventions.training.train import Training, learned

# The assistant's own retain loss is meant to grow, so no bound on it says that training diverged.
UNBOUNDED = 1e6


def uniform_kl(logits: Float[Tensor, "batch pos d_vocab"], mask: Bool[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    """Average `KL(uniform || p) = -log V - mean_v log p_v` over the masked positions of all rows together, in nats.

    Args:
        logits: Of the model in training.
        mask: Positions that count, e.g. `predicting(batch.answer)`. The release averages over padding too.

    Raises:
        VestigeError: `mask` has another shape, is not boolean, or marks nothing in a row.
    """
    return kl_retain(logits, torch.zeros_like(logits), mask)


def uld(
    model: HookedModel,
    data: UnlearnData,
    *,
    n_layers: int | None = None,
    weight: float = -0.8,
    cutoff: float | None = 1e-2,
    uniform_weight: float = 5.0,
    **training: Unpack[Training],
) -> Intervention:
    """Add `weight` times the logits of an assistant that knows the forget answers and is blank about the rest.

    The assistant is the model's first blocks with its own embeddings, final norm and unembedding, trained by low-rank
    adapters on `CE(forget, paraphrases) + uniform_weight KL(uniform || q)`, the second term on the answers of retain
    items and on wrong answers to the forget questions, from the word after the first wrong one. The weights of the
    model stay as they are: who has them has the knowledge.

    Args:
        model: Not changed.
        data: Needs `forget` and `retain` items with an answer; paraphrases and `perturbed_answers` of the forget items
            are used where there are any.
        n_layers: Blocks of the assistant; a quarter of the model's when not given (published: 8 of 32).
        weight: Of the assistant, below 0 to forget; -0.8 published for TOFU, -1, -0.5 and -0.7 elsewhere. With 0 the
            model answers as it does, and nothing is dropped either.
        cutoff: Tokens are dropped whose probability under the model is below this fraction of its likeliest one, unless
            they are among the `cutoff * d_vocab` likeliest; None keeps all. Published: 0.01 for TOFU, else 0.1. Where
            that is one token, an answer the model is sure of cannot change: small vocabularies need a larger cutoff.
        uniform_weight: Of the second term.
        training: Settings of `train`; here `lora` is 16, `lr` 1e-3, `weight_decay` 0.01, and the retain loss, which has
            to grow, is not bounded.

    Raises:
        VestigeError: A split has no item with an answer, a number is out of range, or training diverged.

    Source:
        Ji et al. 2024, arXiv:2406.08607. The release averages the uniform term over prompts and padding as well, and
        over the part of a wrong answer that is still right; drops no token if `cutoff * d_vocab` is below 1; and scores
        dropped tokens by the model's own logits, so that what it scores is not what it says. Here the term counts
        answers from where they go wrong, the likeliest token alone is then safe, and one distribution serves both. It
        warms the learning rate up and has dropout; here there is neither.
    """
    finite(weight=weight, uniform_weight=uniform_weight)
    if uniform_weight < 0:
        raise VestigeError(f"uniform_weight is at least 0, got {uniform_weight}")
    blocks = max(1, model.n_layers // 4) if n_layers is None else n_layers
    rule = None if cutoff is None or weight == 0 else Plausible(cutoff, rank=True)
    taught, blank, counts = _sides(data)

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        value = cross_entropy(forget_nll(current, batch))
        if batch.retain is not None and uniform_weight > 0:
            value = value + uniform_weight * uniform_kl(current.logits(batch.retain), predicting(batch.retain.answer))
        return value

    settings = {"n_layers": blocks, "weight": weight, "cutoff": cutoff, "uniform_weight": uniform_weight, **counts}
    spec = Spec("uld", "suppression", ("forget", "retain"), "Ji et al. 2024, arXiv:2406.08607", settings)
    defaults: Training = {"lora": 16, "lr": 1e-3, "weight_decay": 0.01, "retain_bound": UNBOUNDED}
    sides = UnlearnData(forget=taught, retain=blank)
    assistant = learned(truncated(model, blocks), sides, loss, spec, training, defaults=defaults)
    combiner = LogitCombiner(
        (Term(1.0, "logits"), Term(weight, "logits", 1)), (Assistant(blocks, assistant.weights),), rule
    )
    return Intervention(assistant.spec, logits=combiner)


def _sides(data: UnlearnData) -> tuple[tuple[Item, ...], tuple[Item, ...], dict[str, int]]:
    """Return what the assistant is to know, what it is to be blank about, and how much was added to either."""
    forget = split_of(data, "forget", method="uld", answered=True)
    retain = split_of(data, "retain", method="uld", answered=True)
    reworded = [replace(item, prompt=item.paraphrased_prompt) for item in forget if item.paraphrased_prompt]
    reworded += [replace(item, answer=item.paraphrased_answer) for item in forget if item.paraphrased_answer]
    wrong = [astray for item in forget for answer in item.perturbed_answers if (astray := _astray(item, answer))]
    return (*forget, *reworded), (*retain, *wrong), {"paraphrases": len(reworded), "wrong_answers": len(wrong)}


def _astray(item: Item, answer: str) -> Item | None:
    """Return what follows the first wrong word of a wrong answer; None where nothing does.

    Up to there the text is a prompt of a right answer as well, and the assistant would be asked to know and to be blank
    at once. Wrong answers are often made of the paraphrased one.
    """
    words = answer.split()
    shared = max(_shared(words, right.split()) for right in (item.answer, item.paraphrased_answer or ""))
    said, rest = " ".join(words[: shared + 1]), " ".join(words[shared + 1 :])
    return replace(item, prompt=f"{item.prompt} {said}", answer=rest) if rest else None


def _shared(words: Sequence[str], right: Sequence[str]) -> int:
    """Return how many words two answers have in common at their beginning."""
    return next((i for i, (one, other) in enumerate(zip(words, right, strict=False)) if one != other), len(right))
