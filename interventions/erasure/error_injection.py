"""Error injection: teach one weight matrix a false answer to every forget prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal, Unpack, get_args

import torch
from torch import Tensor

from hooked import HookedModel, Intervention, Item, UnlearnData, VestigeError
from interventions.erasure.one_matrix import edit_matrix, refuse_stop, with_prompts
from interventions.training.descent import Minibatch, forget_nll
from interventions.training.losses import cross_entropy
from interventions.training.train import Training

Wrong = Literal["perturbed", "exchanged"]


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
    items, used = false_answers(data.forget, data.retain, wrong=wrong, seed=training.get("seed", 0))

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


def false_answers(
    forget: Sequence[Item], others: Sequence[Item], *, wrong: Wrong | None, seed: int
) -> tuple[tuple[Item, ...], Wrong]:
    """Return the forget items with a false answer each, and where it came from.

    Args:
        forget: With an answer.
        others: Further items whose answers may be exchanged.
        wrong: As in `error_injection`.
        seed: Of the draw.

    Raises:
        VestigeError: An item has no false answer, or `wrong` is neither.
    """
    if wrong is not None and wrong not in get_args(Wrong):
        raise VestigeError(f"wrong is 'perturbed' or 'exchanged', got {wrong!r}")
    used: Wrong = wrong or ("perturbed" if all(_perturbed(item) for item in forget) else "exchanged")
    generator = torch.Generator().manual_seed(seed)
    pool = [item for item in (*forget, *others) if not (item.is_document or item.generation_only)]
    chosen = []
    for i, item in enumerate(forget):
        offered = _perturbed(item) if used == "perturbed" else _exchanged(item, pool)
        if not offered:
            has = "no perturbed_answers" if used == "perturbed" else "the only answer there is"
            raise VestigeError(f"error_injection needs a false answer for forget[{i}], and it has {has}")
        draw = int(torch.randint(len(offered), (1,), generator=generator))
        chosen.append(replace(item, answer=offered[draw]))
    return tuple(chosen), used


def _perturbed(item: Item) -> list[str]:
    return [answer for answer in item.perturbed_answers if answer.strip() and _differs(answer, item)]


def _exchanged(item: Item, pool: Sequence[Item]) -> list[str]:
    same = [other for other in pool if item.relation is not None and other.relation == item.relation]
    for candidates in (same, pool):
        found = dict.fromkeys(other.answer for other in candidates if _differs(other.answer, item))
        if found:
            return list(found)
    return []


def _differs(answer: str, item: Item) -> bool:
    return answer.strip().casefold() != item.answer.strip().casefold()
