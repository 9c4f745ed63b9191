"""Input rephrasing: any other defence, trained on the paraphrased prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from interventions.erasure.fact_erasure import fact_erasure

Defence = Callable[..., Intervention]


def rephrase(
    model: HookedModel,
    data: UnlearnData,
    *,
    defence: Defence = fact_erasure,
    keep_originals: bool = False,
    **settings: Any,
) -> Intervention:
    """Apply a defence to the forget items with their `paraphrased_prompt` for a prompt.

    Args:
        model: Not changed.
        data: What the defence needs; forget items without a paraphrase are left out.
        defence: One of the other five, or any method called as `defence(model, data, **settings)`.
        keep_originals: Train on the original prompts too, and so on the items without a paraphrase.
        settings: Of the defence.

    Returns:
        What the defence returns, under the name `rephrase`; its own name is the setting `defence`.

    Raises:
        VestigeError: No forget item has a paraphrase, or the defence raises.

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
    made = defence(model, replace(data, forget=forget), **settings)
    recorded = {**made.spec.settings, "defence": made.spec.name, "keep_originals": keep_originals}
    return replace(made, spec=replace(made.spec, name="rephrase", settings=recorded))
