"""The geometry of Key Space Detection: boxes around MLP keys, how large they are, and what they catch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Item, TokenBatch, VestigeError
from interventions.batches import encoded
from interventions.blocks import blocks_of
from interventions.calibration import FOLDS, folds, held_out_rates, order_statistic

When = Literal["prompt", "always"]

_SIGMA_FLOOR = 1e-6


@dataclass(frozen=True)
class Box:
    """An axis-parallel box around a set of keys, up to its size.

    Args:
        mean: Centre.
        std: Sample standard deviation, the half-width at size 1; infinite in dimensions that do not count.
    """

    mean: Float[Tensor, " d_mlp"]
    std: Float[Tensor, " d_mlp"]

    @staticmethod
    def around(keys: Float[Tensor, "n d_mlp"]) -> Box:
        """Return the box of some keys. Dimensions without variance do not count: they would shut out everything else.

        Raises:
            VestigeError: Fewer than two keys, or all keys are equal.
        """
        if len(keys) < 2:
            raise VestigeError(
                f"a box around keys needs at least 2 forget prompts to measure a spread, got {len(keys)}"
            )
        wide = keys.double()
        std = wide.std(0)
        flat = std <= _SIGMA_FLOOR * wide.square().mean().sqrt()
        if bool(flat.all()):
            raise VestigeError(
                "all forget prompts give the same key, so there is no box around them; use different prompts"
            )
        return Box(wide.mean(0), std.masked_fill(flat, inf))

    @property
    def flat(self) -> int:
        """How many dimensions were left out for want of variance."""
        return int(self.std.isinf().sum())

    def size(self, keys: Float[Tensor, "*n d_mlp"]) -> Float[Tensor, "*n"]:
        """Return the size at which the box just holds each key: its largest deviation, in standard deviations."""
        wide = keys.to(torch.promote_types(keys.dtype, torch.float32))
        return ((wide - self.mean.to(wide)).abs() / self.std.to(wide)).amax(-1)


@dataclass(frozen=True)
class Detector:
    """One box per watched block, with `k*`: the size at which it just holds every forget prompt."""

    boxes: Mapping[int, Box]
    k_star: Mapping[int, float]

    @staticmethod
    def fit(keys: Mapping[int, Float[Tensor, "n d_mlp"]]) -> Detector:
        """Return the detector of the keys of some prompts, per block."""
        boxes = {layer: Box.around(k) for layer, k in keys.items()}
        return Detector(boxes, {layer: float(box.size(keys[layer].double()).max()) for layer, box in boxes.items()})

    def ratio(self, keys: Mapping[int, Float[Tensor, "*n d_mlp"]]) -> Float[Tensor, "*n"]:
        """Return the smallest `size / k*` over blocks: the alpha from which on a key fires."""
        sizes = [self.boxes[layer].size(k) / self.k_star[layer] for layer, k in keys.items()]
        return torch.stack(sizes).amin(0)


def largest_deviation(n: int) -> float:
    """Return Samuelson's bound `(n - 1) / sqrt(n)`: how many deviations one of n values can lie from their mean."""
    return (n - 1) / sqrt(n)


def watched_layers(model: HookedModel, layers: Sequence[int] | None) -> list[int]:
    """Return blocks counted from 0, each once; the last one when none is given.

    Raises:
        VestigeError: A block does not exist, or the list is empty.
    """
    return [model.n_layers - 1] if layers is None else blocks_of(model, layers)


def as_prompts(items: Sequence[Item]) -> list[Item]:
    """Turn items into bare prompts; of a document its whole text."""
    return [Item(item.prompt or item.answer, "") for item in items]


@torch.no_grad()
def keys_at_end(
    model: HookedModel, batch: TokenBatch, layers: Sequence[int]
) -> dict[int, Float[Tensor, "batch d_mlp"]]:
    """Return the MLP key of each row at its last real token, per block, on the CPU."""
    sites = {layer: model.site_map.resolve(("mlp_post", layer)) for layer in layers}
    _, cache = model.run_with_cache(batch, names_filter=list(sites.values()), return_type=None)
    return {
        layer: cache[site][torch.arange(len(batch)), batch.last.to(cache[site].device)].cpu()
        for layer, site in sites.items()
    }


def prompt_keys(
    model: HookedModel, items: Sequence[Item], layers: Sequence[int], *, batch_size: int
) -> dict[int, Float[Tensor, "n d_mlp"]]:
    """Return the MLP key of each item at its last prompt token, per block."""
    rows: dict[int, list[Tensor]] = {layer: [] for layer in layers}
    for batch in encoded(model, as_prompts(items), batch_size=batch_size):
        for layer, keys in keys_at_end(model, batch, layers).items():
            rows[layer].append(keys)
    return {layer: torch.cat(parts) for layer, parts in rows.items()}


@torch.no_grad()
def lowest_ratios(
    model: HookedModel, items: Sequence[Item], detectors: Sequence[Detector], *, when: When, batch_size: int
) -> Float[Tensor, "detectors n"]:
    """Return for each item the alpha from which on it fires: at its last prompt token, or at any step of its answer."""
    sites = {layer: model.site_map.resolve(("mlp_post", layer)) for layer in detectors[0].boxes}
    columns = []
    for batch in encoded(model, as_prompts(items) if when == "prompt" else items, batch_size=batch_size):
        _, cache = model.run_with_cache(batch, names_filter=list(sites.values()), return_type=None)
        places = torch.arange(batch.ids.shape[1], device=batch.ids.device)
        step = ((places >= batch.prompt_last[:, None]) & batch.mask).cpu()
        keys = {layer: cache[site].cpu() for layer, site in sites.items()}
        columns.append(torch.stack([d.ratio(keys).masked_fill(~step, inf).amin(-1) for d in detectors]))
    return torch.cat(columns, 1)


@dataclass(frozen=True)
class Calibrated:
    """A detector, how large its boxes are, and what it catches on items held out.

    Args:
        detector: Fitted on all forget prompts.
        alpha: Size of the boxes in units of `k*`; `NEVER` where no retain item may fire.
        true_positive_rate: Fraction of forget items that fire, each judged by a detector fitted without it; None below
            five items of either split, and where four fifths of the retain items are too few for the rate.
        false_positive_rate: The same of retain items.
    """

    detector: Detector
    alpha: float
    true_positive_rate: float | None = None
    false_positive_rate: float | None = None


def calibrate(
    model: HookedModel,
    forget: Sequence[Item],
    retain: Sequence[Item],
    layers: Sequence[int],
    *,
    rate: float,
    when: When,
    seed: int,
    batch_size: int,
) -> Calibrated:
    """Fit the detector on everything, and once more without each fold to see what it catches on items it never saw."""
    keys = prompt_keys(model, forget, layers, batch_size=batch_size)
    detectors = [Detector.fit(keys)]
    generator = torch.Generator().manual_seed(seed)
    forget_fold, retain_fold = folds(len(forget), generator), folds(len(retain), generator)
    enough = min(len(forget), len(retain)) >= FOLDS
    if enough:
        rest = [forget_fold != fold for fold in range(FOLDS)]
        detectors += [Detector.fit({layer: k[rows] for layer, k in keys.items()}) for rows in rest]
    forgets, retains = (
        lowest_ratios(model, items, detectors, when=when, batch_size=batch_size) for items in (forget, retain)
    )
    alpha = order_statistic(retains[0], rate)
    if not enough:
        return Calibrated(detectors[0], alpha)
    rates = held_out_rates(forgets[1:], retains[1:], forget_fold=forget_fold, retain_fold=retain_fold, rate=rate)
    return Calibrated(detectors[0], alpha, *rates)
