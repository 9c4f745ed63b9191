"""What the neuron methods share: statistics of MLP sites over text, and picking the highest scores of all blocks."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import HookedModel, Item, RunningMoments, VestigeError
from interventions.batches import encoded

_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def refuse_experts(model: HookedModel, *, method: str) -> None:
    """Raise for mixture-of-experts models, where a block has no single set of neurons.

    Raises:
        VestigeError: The config names experts.
    """
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    named = next((name for name in _EXPERTS if getattr(config, name, None)), None)
    if named is not None:
        raise VestigeError(
            f"{method} works on dense MLPs, and {model.name} is a mixture of experts ({named}={getattr(config, named)})"
        )


@torch.no_grad()
def neuron_moments(
    model: HookedModel, items: Sequence[Item], *, kind: str, batch_size: int, absolute: bool = False
) -> tuple[RunningMoments, ...]:
    """Return the moments of an MLP site of every block over all real tokens of some items, prompt and answer.

    Args:
        model: Not changed.
        items: Text to run.
        kind: `mlp_pre` or `mlp_post`.
        batch_size: Items per forward pass.
        absolute: Of the absolute values.
    """
    sites = [model.site_map.resolve((kind, layer)) for layer in range(model.n_layers)]
    total: list[RunningMoments | None] = [None] * len(sites)
    for batch in encoded(model, items, batch_size=batch_size):
        _, cache = model.run_with_cache(batch, names_filter=sites, return_type=None)
        for layer, site in enumerate(sites):
            acts = cache[site].abs() if absolute else cache[site]
            block = RunningMoments.of(acts, mask=batch.mask)
            before = total[layer]
            total[layer] = block if before is None else before.merge(block)
    return tuple(moments for moments in total if moments is not None)


def count_of(n: int, top: float) -> int:
    """Return how many of `n` a fraction selects: `n - floor(n (1 - top))`.

    Raises:
        VestigeError: `top` is not above 0 and at most 1.
    """
    if not 0 < top <= 1:
        raise VestigeError(f"top is a fraction above 0 and at most 1, got {top}; 3 % is 0.03")
    # Rounded first: 50 * (1 - 0.42) is 29.000000000000004 and its neighbours fall just below the integer.
    return n - floor(round(n * (1 - top), 9))


def by_layer(chosen: Int[Tensor, " chosen"], widths: Sequence[int]) -> dict[int, Int[Tensor, " neurons"]]:
    """Turn indices into all blocks' neurons laid end to end into sorted neuron indices per block."""
    neurons: dict[int, Tensor] = {}
    start = 0
    for layer, width in enumerate(widths):
        here = chosen[(chosen >= start) & (chosen < start + width)] - start
        if len(here):
            neurons[layer] = here.sort().values
        start += width
    return neurons


def highest(scores: Float[Tensor, " n"], count: int) -> Int[Tensor, " count"]:
    """Return the indices of the highest scores; of equal ones the earlier comes first."""
    return scores.sort(descending=True, stable=True).indices[:count]
