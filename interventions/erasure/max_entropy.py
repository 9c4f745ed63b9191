"""Max entropy: make the lens of every block say nothing at the end of the forget prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Intervention, UnlearnData
from interventions.erasure.fact_erasure import erased
from interventions.erasure.lens import blocks_from, prompt_lens
from interventions.erasure.one_matrix import edit_matrix, middle_of, with_prompts
from interventions.training.descent import Minibatch
from interventions.training.train import Training


def max_entropy_loss(lens: Float[Tensor, "blocks batch d_vocab"]) -> Float[Tensor, ""]:
    """Return `-mean H(D)` over blocks and rows, in nats, D the lens softmax: from `-log d_vocab` to 0.

    Source:
        Patil, Hase, Bansal 2023, arXiv:2309.17410.
    """
    log_p = lens.log_softmax(-1)
    return (log_p.exp() * log_p).sum(-1).mean()


def max_entropy(
    model: HookedModel,
    data: UnlearnData,
    *,
    combine: float = 0.0,
    defence_layers: Sequence[int] | None = None,
    layer: int | None = None,
    part: str = "mlp.out",
    kl_weight: float = 1.0,
    **training: Unpack[Training],
) -> Intervention:
    """Descend `-mean entropy of the lens + combine p(answer | prompt) + kl_weight KL(edited || original)`.

    The lens is that of the model in training, at the last prompt token, and one weight matrix learns. No answer is
    read unless `combine` is above 0.

    Args:
        model: Not changed; also the original of the KL term.
        data: Needs `forget` items with a prompt and an answer, and `retain` ones unless `kl_weight` is 0.
        combine: As in `head_projection`.
        defence_layers: As in `head_projection`.
        layer: As in `fact_erasure`.
        part: As in `fact_erasure`.
        kl_weight: As in `fact_erasure`.
        training: As in `fact_erasure`.

    Raises:
        VestigeError: A setting is out of range, a split is missing, there is no such matrix, or training diverged.

    Source:
        Patil, Hase, Bansal 2023, arXiv:2309.17410.
    """
    data = with_prompts(data, method="max_entropy")
    blocks = blocks_from(model, defence_layers, start=middle_of(model, layer))

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        lens, logits = prompt_lens(current, batch.forget, blocks)
        return max_entropy_loss(lens) + erased(logits, batch.forget, weight=combine)

    return edit_matrix(
        model,
        data,
        loss,
        training,
        name="max_entropy",
        layer=layer,
        part=part,
        kl_weight=kl_weight,
        settings={"combine": combine, "defence_layers": blocks},
    )
