"""A gate that knows forget prompts by the direction in which their mean activation lies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from hooked import HookedModel, Item, Request, TokenBatch, UnlearnData, VestigeError
from interventions.batches import split_of
from interventions.calibration import Calibration, calibrated

from .asked import prompt_batches, prompts_of


@dataclass(frozen=True, eq=False)
class CentroidGate:
    """Fires on prompts whose mean activation points from the retain to the forget prompts.

    Build it with `fit_centroid_gate`.

    Args:
        site: Where activations are read.
        centre: Half way between the two centroids.
        direction: Forget centroid minus retain centroid, at norm 1.
        bos: Id of the token left out of the mean.
        calibration: Where it fires; a distance is a negative cosine.
    """

    site: str
    centre: Float[Tensor, " d_model"]
    direction: Float[Tensor, " d_model"]
    bos: int | None
    calibration: Calibration

    def __call__(self, raw: HookedModel, request: Request, /) -> Bool[Tensor, " batch"]:
        batch, asked = prompts_of(request)
        return (self.distance(mean_acts(raw, batch, self.site, bos=self.bos)) <= self.calibration.limit) & asked.cpu()

    def distance(self, means: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        """Return the negative cosine of each mean, seen from the centre, with the direction."""
        return -F.normalize(means - self.centre.to(means), dim=-1) @ self.direction.to(means)


@torch.no_grad()
def mean_acts(model: HookedModel, batch: TokenBatch, site: str, *, bos: int | None) -> Float[Tensor, "batch d_model"]:
    """Return the mean activation over each row's real tokens, float64 on the CPU.

    The BOS is left out where there is anything else: its activation is the same in every prompt, and in many models
    larger than all others together.
    """
    acts = model.run_with_cache(batch, names_filter=site, return_type=None)[1][site].double().cpu()
    mask = batch.mask.cpu()
    counted = mask if bos is None else mask & (batch.ids.cpu() != bos)
    counted = torch.where(counted.any(-1, keepdim=True), counted, mask)[..., None]
    return acts.masked_fill(~counted, 0.0).sum(1) / counted.sum(1)


def fit_centroid_gate(
    model: HookedModel,
    data: UnlearnData,
    *,
    layer: int | None = None,
    false_positive_rate: float = 0.05,
    seed: int = 0,
    batch_size: int = 32,
) -> CentroidGate:
    """Fit a gate on the mean residual stream over the prompt tokens, read from the model without interventions.

    The score is the cosine between a prompt's mean, seen from half way between the forget and the retain centroid, and
    the difference of the centroids. It fires from the score on that at most a fraction `false_positive_rate` of the
    retain prompts reach (barring ties).

    Unlike words, activations carry over to many paraphrases. A long preamble dilutes the mean, and an encoding or a
    question split over turns still gets past it.

    Args:
        model: Not changed.
        data: Needs `forget` and `retain`. Of a document the whole text counts as prompt.
        layer: Block after which the stream is read; the middle one when not given.
        false_positive_rate: Largest fraction of retain prompts that may fire, in [0, 1).
        seed: Of the split into folds.
        batch_size: Prompts per forward pass.

    Returns:
        The gate, with its rates on items held out.

    Raises:
        VestigeError: A split is missing, a setting is out of range, or both centroids are equal.
    """
    site = model.site_map.resolve(("resid_post", model.n_layers // 2 if layer is None else layer))
    bos = getattr(model.tokenizer, "bos_token_id", None)
    forget, retain = (
        _means(model, split_of(data, split, method="fit_centroid_gate"), site, bos=bos, batch_size=batch_size)
        for split in ("forget", "retain")
    )

    def fit(forget_rows: Tensor, retain_rows: Tensor, calibration: Calibration) -> CentroidGate:
        ends = forget[forget_rows].mean(0), retain[retain_rows].mean(0)
        apart = ends[0] - ends[1]
        if not float(apart.norm()) > 0:
            raise VestigeError(f"forget and retain prompts have the same mean at '{site}'; use another layer")
        return CentroidGate(site, (ends[0] + ends[1]) / 2, apart / apart.norm(), bos, calibration)

    def distances(forget_rows: Tensor, retain_rows: Tensor) -> tuple[Tensor, Tensor]:
        fitted = fit(forget_rows, retain_rows, Calibration(-torch.inf, 0.0))
        return fitted.distance(forget), fitted.distance(retain)

    calibration = calibrated(
        distances,
        n_forget=len(forget),
        n_retain=len(retain),
        rate=false_positive_rate,
        seed=seed,
        reads_retain=True,
    )
    return fit(torch.arange(len(forget)), torch.arange(len(retain)), calibration)


def _means(
    model: HookedModel, items: Sequence[Item], site: str, *, bos: int | None, batch_size: int
) -> Float[Tensor, "n d_model"]:
    batches = prompt_batches(model, items, batch_size=batch_size)
    return torch.cat([mean_acts(model, batch, site, bos=bos) for batch in batches])
