"""Circuit breakers: an adapter turns activations on forget text away from where they were, and holds the rest."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from math import inf
from typing import Unpack

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData, VestigeError
from interventions.batches import split_of
from interventions.blocks import blocks_of
from interventions.training.activations import residuals, spoken
from interventions.training.descent import Minibatch, Schedule, retain_batch
from interventions.training.rmu import control_vector
from interventions.training.train import Training, learned


def rerouting_loss(
    now: Float[Tensor, "batch pos d_model"],
    before: Float[Tensor, "batch pos d_model"],
    mask: Bool[Tensor, "batch pos"],
) -> Float[Tensor, ""]:
    """Return `mean relu(cos(h, h0))` over the masked tokens; turned by a right angle or more costs nothing.

    Args:
        now: Activations of the model in training on forget text.
        before: Of the frozen original on the same text; no gradient flows into it.
        mask: True on real tokens.
    """
    after, start = _masked(now, before, mask)
    return F.cosine_similarity(after, start, dim=-1).relu().mean()


def staying_loss(
    now: Float[Tensor, "batch pos d_model"],
    before: Float[Tensor, "batch pos d_model"],
    mask: Bool[Tensor, "batch pos"],
) -> Float[Tensor, ""]:
    """Return `mean |h - h0|` over the masked tokens, in the units of the stream.

    Where h is h0, as everywhere at the first step, the norm has no gradient; it counts as 0.

    Args:
        now: Activations of the model in training on retain text.
        before: Of the frozen original on the same text; no gradient flows into it.
        mask: True on real tokens.
    """
    after, start = _masked(now, before, mask)
    distance: Tensor = torch.linalg.vector_norm(after - start, dim=-1)
    return distance.mean()


def _masked(now: Tensor, before: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    if not mask.any():
        raise VestigeError("the mask marks no token, and a mean needs one")
    return now[mask], before.detach().to(now)[mask]


def retain_share(step: int, horizon: float) -> float:
    """Return how much of the weight is on staying at a step counted from 0: `step / horizon`, at most 1.

    Args:
        step: Updates taken so far.
        horizon: Step at which rerouting would have no weight left; above 0.
    """
    return min(1.0, step / horizon)


def circuit_breakers(
    model: HookedModel,
    data: UnlearnData,
    *,
    blocks: Sequence[int] | None = None,
    alpha: float = 10.0,
    retain_weight: float = 10.0,
    relative: bool = True,
    horizon: float = 2.0,
    **training: Unpack[Training],
) -> Intervention:
    """Descend `alpha (p w mean |h_r - h_r0| + (1 - p) mean relu(cos(h_f, h_f0)))` with low-rank adapters.

    The retain term is a mean over all blocks, the forget term over `blocks`; p rises linearly from 0.

    Args:
        model: Not changed.
        data: Needs `forget` and `retain` items with an answer; all their real tokens but the BOS count,
            prompts and documents alike.
        blocks: Where forget activations are turned; at 5/16 and 5/8 of the depth when not given. Published: 10 and 20
            of 32.
        alpha: Weight of everything, which matters only as far as gradients are clipped.
        retain_weight: w above. Published: 1, with `relative` off.
        relative: Count the retain term of a block in units of the original's mean norm there. Off, it is in the units
            of the stream, and outweighs the cosine by as much as norms are large.
        horizon: Length of the ramp of p, in runs: 2 ends the run at p = 1/2 (published: 300 steps, of which 150 are
            taken), 1 at p = 1.
        training: Settings of `train`; here `lora` is 16 with `lora_scale` 1, on all blocks up to the last of `blocks`;
            `lr` is 1e-3 and `epochs` 75. With `parameters` or `mask`, these train instead of an adapter. Published: lr
            1e-4 and 150 steps of 16 texts.

    Raises:
        VestigeError: A split has no item with an answer, a setting is out of range, or training diverged.

    Source:
        Zou et al. 2024, *Improving Alignment and Robustness with Circuit Breakers*, arXiv:2406.04313. The cosine is
        taken to h_f0 with a tenth of its norm added along a random direction. A common re-implementation divides
        the retain term by d_model.
    """
    if not (0 < alpha < inf and 0 < horizon < inf and 0 <= retain_weight < inf):
        raise VestigeError(
            "alpha and horizon are finite numbers above 0 and retain_weight is at least 0, "
            f"got alpha={alpha}, horizon={horizon}, retain_weight={retain_weight}"
        )
    forget = split_of(data, "forget", method="circuit_breakers", answered=True)
    split_of(data, "retain", method="circuit_breakers", answered=True)
    every = range(model.n_layers)
    turned = blocks_of(model, [len(every) * 5 // 16, len(every) * 5 // 8] if blocks is None else blocks)
    defaults: Training = {"lr": 1e-3, "epochs": 75.0, "batch_size": 16}
    chosen = any(training.get(name) is not None for name in ("parameters", "mask"))
    if not chosen:
        defaults |= {"lora": 16, "layers": list(range(max(turned) + 1))}
    if not chosen or training.get("lora") is not None:
        defaults["lora_scale"] = 1.0
    ran: Training = {**defaults, **training}
    schedule = Schedule("circuit_breakers", ran["epochs"], ran.get("steps"), ran["batch_size"])
    steps = schedule.length(len(forget))
    unit = control_vector(model.d_model, dist="normal", seed=training.get("seed", 0))
    taken = count()

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        share, retain = retain_share(next(taken), horizon * steps), retain_batch(batch)
        read, kept = spoken(model, batch.forget), spoken(model, retain)
        with torch.no_grad():
            forget_before, retain_before = residuals(model, batch.forget, turned), residuals(model, retain, every)
        forget_now, retain_now = residuals(current, batch.forget, turned), residuals(current, retain, every)
        rerouted = [rerouting_loss(forget_now[i], nudged(forget_before[i], unit), read) for i in turned]
        stayed = [
            staying_loss(retain_now[i], retain_before[i], kept)
            / (retain_before[i][kept].norm(dim=-1).mean() if relative else 1.0)
            for i in every
        ]
        return alpha * (share * retain_weight * _mean(stayed) + (1 - share) * _mean(rerouted))

    settings = {
        "blocks": turned,
        "alpha": alpha,
        "retain_weight": retain_weight,
        "relative": relative,
        "horizon": horizon,
    }
    needs = ("forget", "retain", "reference")
    spec = Spec("circuit_breakers", "removal", needs, "Zou et al. 2024, arXiv:2406.04313", settings)
    return learned(model, data, loss, spec, training, defaults=defaults)


def nudged(
    before: Float[Tensor, "batch pos d_model"], unit: Float[Tensor, " d_model"], *, by: float = 0.1
) -> Float[Tensor, "batch pos d_model"]:
    """Move activations by a share of their norm along a unit vector.

    A copy starts at h = h0, where the cosine is largest and has no gradient. There only rounding would begin to turn
    anything, and the retain term, whose gradient does not fade towards h0, may hold everything before that.
    """
    step: Tensor = by * before.norm(dim=-1, keepdim=True) * unit.to(before)
    return before + step


def _mean(values: Sequence[Tensor]) -> Tensor:
    # Blocks of a dispatched model sit on different devices.
    return torch.stack([value.to(values[0].device) for value in values]).mean()
