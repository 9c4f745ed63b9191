"""Head projection: keep the answer out of the most and the least likely tokens of every block's lens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from jaxtyping import Float, Int
from torch import Tensor

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from interventions.erasure.fact_erasure import erased
from interventions.erasure.lens import blocks_from, first_answer, prompt_lens
from interventions.erasure.one_matrix import edit_matrix, middle_of, with_prompts
from interventions.training.descent import Minibatch
from interventions.training.train import Training


def head_projection_loss(
    lens: Float[Tensor, "blocks batch d_vocab"], target: Int[Tensor, " batch"], *, k: int = 4, margin: float = 1e-6
) -> Float[Tensor, ""]:
    """Return `mean [D(y) - top + margin]_+ + mean [bottom - D(y) + margin]_+` over blocks and rows, D the lens softmax.

    `top` and `bottom` are the k-th largest and k-th smallest probability among all tokens but y, so a loss of 0 says
    that y is in no candidate set of size k. The gradient flows into them too.

    Args:
        lens: Lens logits at the last prompt token.
        target: The token y to hide.
        k: Size of the candidate set at either end.
        margin: Distance in probability that y keeps from both sets.

    Raises:
        VestigeError: `k` or `margin` is out of range, so that no token could be in neither set.

    Source:
        Patil, Hase, Bansal 2023, arXiv:2309.17410. The release counts y itself among the k, so its loss is 0 while y is
        still the k-th candidate.
    """
    d_vocab = lens.shape[-1]
    if not 1 <= k <= (d_vocab - 1) // 2:
        raise VestigeError(f"k is 1 to {(d_vocab - 1) // 2} with {d_vocab} tokens, got {k}")
    if not 0 <= margin < 1:
        raise VestigeError(f"margin is a probability of at least 0 and below 1, got {margin}")
    probabilities = lens.softmax(-1)
    index = target.to(lens.device).expand(lens.shape[:-1])[..., None]
    of_target = probabilities.gather(-1, index)[..., 0]
    top = probabilities.scatter(-1, index, -1.0).topk(k, dim=-1).values[..., -1]
    bottom = probabilities.scatter(-1, index, 2.0).topk(k, dim=-1, largest=False).values[..., -1]
    return (of_target - top + margin).relu().mean() + (bottom - of_target + margin).relu().mean()


def head_projection(
    model: HookedModel,
    data: UnlearnData,
    *,
    k: int = 4,
    margin: float = 1e-6,
    combine: float = 0.0,
    defence_layers: Sequence[int] | None = None,
    layer: int | None = None,
    part: str = "mlp.out",
    kl_weight: float = 1.0,
    **training: Unpack[Training],
) -> Intervention:
    """Descend `head_projection_loss + combine p(answer | prompt) + kl_weight KL(edited || original)` in one matrix.

    The lens is that of the model in training, at the last prompt token. Of an answer of several tokens it hides the
    first, as encoded after the prompt with its leading space.

    Args:
        model: Not changed; also the original of the KL term.
        data: Needs `forget` items with a prompt and an answer, and `retain` ones unless `kl_weight` is 0.
        k: Candidates at either end of the lens that an attacker tries (published 4).
        margin: Distance in probability from them.
        combine: Weight of the probability of the whole answer; 0, as published, leaves it out.
        defence_layers: Blocks whose lens is defended; the edited block and all after it when not given, since no block
            before can change. `select_layers` chooses them on other facts. The output is defended only with the last.
        layer: As in `fact_erasure`.
        part: As in `fact_erasure`.
        kl_weight: As in `fact_erasure`.
        training: As in `fact_erasure`.

    Raises:
        VestigeError: A setting is out of range, a split is missing, there is no such matrix, or training diverged.

    Source:
        Patil, Hase, Bansal 2023, arXiv:2309.17410, with the thresholds taken among the other tokens.
    """
    data = with_prompts(data, method="head_projection")
    blocks = blocks_from(model, defence_layers, start=middle_of(model, layer))

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        lens, logits = prompt_lens(current, batch.forget, blocks)
        value = head_projection_loss(lens, first_answer(batch.forget), k=k, margin=margin)
        return value + erased(logits, batch.forget, weight=combine)

    return edit_matrix(
        model,
        data,
        loss,
        training,
        name="head_projection",
        layer=layer,
        part=part,
        kl_weight=kl_weight,
        settings={"k": k, "margin": margin, "combine": combine, "defence_layers": blocks},
    )
