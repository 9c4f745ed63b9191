"""Input rephrasing: any other defence, trained on the paraphrased prompts."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Unpack

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from interventions.erasure.fact_erasure import fact_erasure
from interventions.training.train import Training

Defence = Callable[..., Intervention]


def rephrase(
    model: HookedModel,
    data: UnlearnData,
    *,
    defence: Defence = fact_erasure,
    keep_originals: bool = False,
    layer: int | None = None,
    part: str | None = None,
    kl_weight: float | None = None,
    **training: Unpack[Training],
) -> Intervention:
    """Apply a defence to the forget items with their `paraphrased_prompt` for a prompt.

    Args:
        model: Not changed.
        data: What the defence needs; forget items without a paraphrase are left out.
        defence: One of the other five, or any method called as `defence(model, data, **settings)`. What else it takes
            goes in with `functools.partial`.
        keep_originals: Train on the original prompts too, and so on the items without a paraphrase.
        layer: Of the defence; its own default when not given.
        part: Likewise.
        kl_weight: Likewise.
        training: Of the defence.

    Returns:
        What the defence returns, under the name `rephrase`; its own name is the setting `defence`.

    Raises:
        VestigeError: No forget item has a paraphrase, the defence does not take a setting that is given, or it raises.

    Source:
        Patil, Hase, Bansal 2023, arXiv:2309.17410.
    """
    paraphrased = tuple(
        replace(item, prompt=item.paraphrased_prompt, paraphrased_prompt=item.prompt)
        for item in data.forget
        if item.paraphrased_prompt is not None and item.paraphrased_prompt.strip()
    )
    if not paraphrased:
        raise VestigeError(
            f"rephrase needs forget items with a paraphrased_prompt, and none of the {len(data.forget)} has one"
        )
    forget = (*data.forget, *paraphrased) if keep_originals else paraphrased
    own = {"layer": layer, "part": part, "kl_weight": kl_weight}
    given: dict[str, Any] = {**training, **{name: value for name, value in own.items() if value is not None}}
    try:
        inspect.signature(defence).bind(model, data, **given)
    except TypeError as error:
        name = getattr(defence, "__name__", "the defence")
        raise VestigeError(f"rephrase cannot pass its settings on to {name}: {error}; leave that out") from error
    made = defence(model, replace(data, forget=forget), **given)
    recorded = {**made.spec.settings, "defence": made.spec.name, "keep_originals": keep_originals}
    return replace(made, spec=replace(made.spec, name="rephrase", settings=recorded))
