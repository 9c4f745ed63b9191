"""Methods that remove or add a direction: the one in which the prompts to forget differ from those to keep."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Intervention, Item, UnlearnData, VestigeError
from probes import mean_difference


def fit_on_direction(
    name: str,
    function: Callable[..., Intervention],
    model: HookedModel,
    data: UnlearnData,
    *,
    site: str | None,
    settings: Mapping[str, Any],
) -> Intervention:
    """Fit `orthogonalize`, `ablate_direction` or `steer` to the difference of means at the last prompt token.

    Args:
        name: Of the method.
        function: The method.
        model: Left as it is.
        data: What to forget and keep.
        site: Where the direction is read; `steer` acts there, the other two remove it from all that is written to the
            residual stream.
        settings: Keyword arguments of the method; `steer` subtracts the direction where no coefficient is given.

    Raises:
        VestigeError: There is nothing to keep, or no such site.
    """
    if site is None or not data.retain:
        missing = "a site" if site is None else "prompts to keep; give some with --retain"
        raise VestigeError(f"{name} compares prompts to forget with others at a site and needs {missing}")
    found = model.site_map.resolve(site)
    direction = _difference(model, found, data)
    if len(direction) != model.d_model:
        raise VestigeError(
            f"{name} acts on the residual stream of width {model.d_model}, and '{found}' is {len(direction)} wide; "
            "pass a site of the stream, e.g. --site resid_post.2"
        )
    if name == "orthogonalize":
        return function(model, direction, **settings)
    everywhere = [(kind, layer) for layer in range(model.n_layers) for kind in ("resid_pre", "attn_out", "mlp_out")]
    if name == "steer":
        return function(direction, sites=[found], **{"coefficient": -1.0, **settings})
    return function(direction, sites=everywhere, **settings)


def _difference(model: HookedModel, site: str, data: UnlearnData) -> Float[Tensor, " d_model"]:
    rows = [_last(model, site, items) for items in (data.forget, data.retain)]
    labels = torch.arange(sum(map(len, rows))) < len(rows[0])
    return mean_difference(torch.cat(rows), labels).vector


def _last(model: HookedModel, site: str, items: tuple[Item, ...], *, batch_size: int = 32) -> Float[Tensor, "n d"]:
    """Read the last token of each prompt, or of each document."""
    texts = [item.prompt or item.answer for item in items]
    found = []
    for start in range(0, len(texts), batch_size):
        batch = model.tokenize(texts[start : start + batch_size], padding_side="left")
        _, cache = model.run_with_cache(batch, names_filter=[site])
        found.append(cache[site][:, -1].float())
    return torch.cat(found)
