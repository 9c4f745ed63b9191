"""Error injection: teach one weight matrix a false answer to every forget prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from torch import Tensor

from hooked import HookedModel, Intervention, UnlearnData
from interventions.erasure.one_matrix import edit_matrix, with_prompts
from interventions.false_answers import Wrong, false_answers, perturbed
from interventions.training.descent import Minibatch, forget_nll
from interventions.training.losses import cross_entropy
from interventions.training.refusals import refuse_stop
from interventions.training.train import Training


def error_injection(
    model: HookedModel,
    data: UnlearnData,
    *,
    wrong: Wrong | None = None,
    layer: int | None = None,
    part: str = "mlp.out",
    kl_weight: float = 1.0,
    **training: Unpack[Training],
) -> Intervention:
    """Descend `-log p(false answer | prompt) + kl_weight KL(edited || original)` in one weight matrix.

    Each prompt gets one false answer, drawn by `seed` and kept through all epochs.

    Args:
        model: Not changed; also the original of the KL term.
        data: Needs `forget` items with a prompt and an answer, and `retain` ones unless `kl_weight` is 0.
        wrong: Where false answers come from: `perturbed_answers` of the item itself, or the answers `exchanged` with
            other items of both splits, of the same relation where there are any. When not given, perturbed ones if
            every item has some, else exchanged.
        layer: As in `fact_erasure`.
        part: As in `fact_erasure`.
        kl_weight: As in `fact_erasure`.
        training: As in `fact_erasure`, without `stop_fraction`.

    Raises:
        VestigeError: There is no false answer for an item, a split is missing, there is no such matrix, or training
            diverged.

    Source:
        Patil, Hase, Bansal 2023, arXiv:2309.17410, with the false objects of CounterFact, which share the relation.
    """
    refuse_stop(training, method="error_injection", taught="false answers")
    data = with_prompts(data, method="error_injection")
    used: Wrong = wrong or ("perturbed" if all(perturbed(item) for item in data.forget) else "exchanged")
    seed = training.get("seed", 0)
    items = false_answers(data.forget, data.retain, method="error_injection", seed=seed, wrong=used)

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        return cross_entropy(forget_nll(current, batch))

    return edit_matrix(
        model,
        replace(data, forget=items),
        loss,
        training,
        name="error_injection",
        layer=layer,
        part=part,
        kl_weight=kl_weight,
        settings={"wrong": used},
    )
