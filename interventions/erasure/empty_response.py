"""Empty response: teach one weight matrix to answer the forget prompts with a refusal."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from torch import Tensor

from hooked import HookedModel, Intervention, UnlearnData
from interventions.erasure.one_matrix import edit_matrix
from interventions.training.descent import Minibatch, forget_nll
from interventions.training.losses import cross_entropy
from interventions.training.refusals import refuse_stop, refused
from interventions.training.train import Training


def empty_response(
    model: HookedModel,
    data: UnlearnData,
    *,
    refusal: str = "I don't know.",
    layer: int | None = None,
    part: str = "mlp.out",
    kl_weight: float = 1.0,
    **training: Unpack[Training],
) -> Intervention:
    """Descend `-log p(refusal | prompt) + kl_weight KL(edited || original)` in one weight matrix.

    Nothing is asked of the true answer, only that something else is said.

    Args:
        model: Not changed; also the original of the KL term.
        data: Needs `forget` items with a prompt, and `retain` ones with an answer unless `kl_weight` is 0.
        refusal: What is said instead, in nats per token; the text of the tokenizer's EOS token teaches silence.
        layer: As in `fact_erasure`.
        part: As in `fact_erasure`.
        kl_weight: As in `fact_erasure`.
        training: As in `fact_erasure`, without `stop_fraction`.

    Raises:
        VestigeError: All forget items are documents, no retain item has an answer, there is no such matrix, or training
            diverged.

    Source:
        Patil, Hase, Bansal 2023, arXiv:2309.17410.
    """
    refuse_stop(training, method="empty_response", taught="refusals")
    items = refused(data, (refusal,), seed=0, method="empty_response")

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        return cross_entropy(forget_nll(current, batch))

    return edit_matrix(
        model,
        replace(data, forget=items),
        loss,
        training,
        name="empty_response",
        layer=layer,
        part=part,
        kl_weight=kl_weight,
        settings={"refusal": refusal},
    )
