"""Fact erasure: make the answers unlikely by an edit of one weight matrix."""

from __future__ import annotations

from math import inf
from typing import Unpack

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Intervention, TokenBatch, UnlearnData, VestigeError
from interventions.erasure.one_matrix import edit_matrix
from interventions.training.descent import Minibatch, forget_nll
from interventions.training.losses import AnswerNLL, answer_nll
from interventions.training.train import Training


def fact_erasure_loss(forget: AnswerNLL) -> Float[Tensor, ""]:
    """Return `mean_b exp(-m_b)`, the length-normalised probability of the answers, in (0, 1].

    Its gradient in a logit gap is `p (1 - p)`: it lets go of what is forgotten, and hardly begins on an answer that the
    model is wholly sure of.

    Source:
        Patil, Hase, Bansal 2023, arXiv:2309.17410.
    """
    return torch.exp(-forget.mean).mean()


def fact_erasure(
    model: HookedModel,
    data: UnlearnData,
    *,
    layer: int | None = None,
    part: str = "mlp.out",
    kl_weight: float = 1.0,
    **training: Unpack[Training],
) -> Intervention:
    """Descend `p(answer | prompt) + kl_weight KL(edited || original)` in one weight matrix.

    Every other weight stays bit-equal, and so does the residual stream before the edited block: an edit behind the
    place of recall hides a fact from the output and leaves it readable there. The earlier the block, the less is left.

    Args:
        model: Not changed; also the original of the KL term.
        data: Needs `forget` items with an answer, and `retain` ones, the neutral text, unless `kl_weight` is 0.
        layer: Block of the matrix, negative ones from the end; the middle one when not given. Published: 5 or 6 of 28.
        part: Which matrix of the block, e.g. `attn.o`.
        kl_weight: Weight of the KL term, at the predictions of the retain answers (published 0.0625, for the sum of
            one fact's loss and its KL at one position); 0 leaves it out.
        training: Settings of `train` but `parameters` and `layers`; here `lr` is 3e-3, which suits a small model, and
            `epochs` 40. `max_change` bounds the change of each weight (published 1e-4), `lora` makes it low-rank.

    Raises:
        VestigeError: A split has no item with an answer, there is no such matrix, or training diverged.

    Source:
        Patil, Hase, Bansal 2023, arXiv:2309.17410. There one fact at a time, of a single token, restored afterwards;
        here all of them at once, in minibatches, and answers of any length.
    """

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        return fact_erasure_loss(forget_nll(current, batch))

    return edit_matrix(
        model, data, loss, training, name="fact_erasure", layer=layer, part=part, kl_weight=kl_weight, settings={}
    )


def erased(logits: Float[Tensor, "batch pos d_vocab"], batch: TokenBatch, *, weight: float) -> Tensor | float:
    """Return `weight p(answer | prompt)`; a weight of 0 costs nothing.

    Raises:
        VestigeError: The weight is negative or not finite.
    """
    if not 0 <= weight < inf:
        raise VestigeError(f"combine is a finite number of at least 0, got {weight}")
    return weight * fact_erasure_loss(answer_nll(logits, batch.ids, batch.answer)) if weight > 0 else 0.0
