"""ICD: induce hallucinations in a copy of the model, and say what the model believes more than that copy does."""

from __future__ import annotations

from typing import Unpack

from hooked import HookedModel, Intervention, Spec, UnlearnData
from interventions.decoding.amateur import taught_wrongly
from interventions.decoding.combiner import LogitCombiner, Term, finite
from interventions.decoding.plausible import Plausible
from interventions.training.train import Training


def icd(
    model: HookedModel,
    data: UnlearnData,
    *,
    weight: float = 1.0,
    cutoff: float | None = 0.1,
    **training: Unpack[Training],
) -> Intervention:
    """Score tokens by `log p - weight log p_amateur`, the amateur a copy taught to answer wrongly.

    A decoding for truthfulness rather than for forgetting: it raises the right answers to the questions of the data.

    Args:
        model: Not changed.
        data: Needs `forget` items with an answer; `retain` items are used as well. Both are answered with their
            `perturbed_answers`, or where an item has none with the answer of another item.
        weight: Of the contrast.
        cutoff: Tokens are dropped whose probability under the model is below this fraction of its likeliest one; None
            keeps all.
        training: Settings of `train`; here `lora` is 16, `lr` 1e-3 and `epochs` 5.

    Raises:
        VestigeError: No item has an answer, there is no false one, a number is out of range, or training diverged.

    Source:
        Zhang, Cui, Bi, Shi 2023, arXiv:2312.15710, where the amateur learns from a set of hallucinations.
    """
    finite(weight=weight)
    rule = None if cutoff is None else Plausible(cutoff)
    source = "Zhang, Cui, Bi, Shi 2023, arXiv:2312.15710"
    spec = Spec("icd", "suppression", ("forget",), source, {"weight": weight, "cutoff": cutoff})
    defaults: Training = {"lora": 16, "lr": 1e-3, "epochs": 5.0}
    amateur, spec = taught_wrongly(model, data, spec, training, defaults=defaults)
    return Intervention(spec, logits=LogitCombiner((Term(1.0), Term(-weight, model=1)), (amateur,), rule))
