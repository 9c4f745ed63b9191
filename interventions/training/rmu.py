"""Representation misdirection: push forget activations towards a random vector, and hold those on retain text."""

from __future__ import annotations

from math import inf
from typing import Literal, Unpack

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked import HookedModel, Intervention, Item, Spec, UnlearnData, VestigeError
from interventions.batches import encoded, split_of
from interventions.blocks import blocks_of
from interventions.evaluating import evaluating
from interventions.training.activations import residuals, spoken
from interventions.training.descent import Minibatch, retain_batch
from interventions.training.train import Training, learned

Distribution = Literal["uniform", "normal"]


def rmu_loss(
    forget: Float[Tensor, "forget_batch forget_pos d_model"],
    retain: Float[Tensor, "retain_batch retain_pos d_model"],
    reference: Float[Tensor, "retain_batch retain_pos d_model"],
    control: Float[Tensor, " d_model"],
    *,
    forget_mask: Bool[Tensor, "forget_batch forget_pos"],
    retain_mask: Bool[Tensor, "retain_batch retain_pos"],
    alpha: float,
) -> Float[Tensor, ""]:
    """Return `mean |h_f - control|^2 / d_model + alpha mean |h_r - h_r0|^2 / d_model`, means over the masked tokens.

    Args:
        forget: Activations of the model in training on forget text.
        retain: The same on retain text.
        reference: Of the frozen original on the same retain text; no gradient flows into it.
        control: Where forget activations go: c times a unit vector.
        forget_mask: True on real tokens.
        retain_mask: True on real tokens.
        alpha: Weight of the retain term.

    Raises:
        VestigeError: A mask marks nothing.

    Source:
        Li et al. 2024, *WMDP*, arXiv:2403.03218. Forks of the release average over padding too.
    """
    for name, mask in (("forget_mask", forget_mask), ("retain_mask", retain_mask)):
        if not mask.any():
            raise VestigeError(f"{name} marks no token, and a mean needs one")
    pushed = (forget[forget_mask] - control.to(forget)).square().mean()
    held = (retain[retain_mask] - reference.detach().to(retain)[retain_mask]).square().mean()
    return pushed + alpha * held


def control_vector(d_model: int, *, dist: Distribution = "uniform", seed: int = 0) -> Float[Tensor, " d_model"]:
    """Draw the unit vector that forget activations are pushed along.

    Args:
        d_model: Its length.
        dist: `uniform` (published) draws entries from [0, 1): they are all positive, so its cosine to the vector of
            ones is about 0.87 and two draws have one of about 0.75; a LayerNorm, which takes the mean away, removes
            three quarters of its square. `normal` has no preferred direction.
        seed: Of the draw.
    """
    if dist not in ("uniform", "normal"):
        raise VestigeError(f"dist is 'uniform' or 'normal', got {dist!r}")
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.rand if dist == "uniform" else torch.randn)(d_model, generator=generator)
    unit: Tensor = drawn / drawn.norm()
    return unit


def rmu(
    model: HookedModel,
    data: UnlearnData,
    *,
    layer: int | None = None,
    c: float | None = None,
    c_rel: float = 2.0,
    alpha: float = 100.0,
    dist: Distribution = "uniform",
    **training: Unpack[Training],
) -> Intervention:
    """Train `W_out` of three blocks so that the stream after the last says nothing on forget text.

    Later blocks are left alone and read noise there. The loss is bounded below, so all steps are taken.

    Args:
        model: Not changed.
        data: Needs `forget` and `retain` items with an answer; all their real tokens but the BOS count,
            prompts and documents alike.
        layer: Block after which the stream is read; the weights are `W_out` of this one and the two before it. When not
            given, a quarter of the depth, and at least block 2 where that is not past half of it. Published: 7 of 32.
        c: Norm of the target. Published: 6.5 for a model of 7 billion parameters, 20 as the release's default.
        c_rel: What c is, when not given, in units of the original's mean norm on forget tokens after that block.
        alpha: Weight of the retain term. Published: 1200 at 7 billion parameters, 100 as the release's default.
        dist: As in `control_vector`, whose seed is the training's.
        training: Settings of `train`; here `lr` is 5e-3 and `epochs` 60. With `parameters`, `layers`, `mask` or `lora`,
            that is what trains. Published: lr 5e-5 and at most 150 steps of 4 texts.

    Raises:
        VestigeError: A split has no item with an answer, a setting is out of range, or training diverged.

    Source:
        Li et al. 2024, *WMDP*, arXiv:2403.03218.
    """
    norm = c_rel if c is None else c
    if not 0 <= norm < inf or not 0 <= alpha < inf:
        raise VestigeError(f"c, c_rel and alpha are finite numbers of at least 0, got {norm} and alpha={alpha}")
    forget = split_of(data, "forget", method="rmu", answered=True)
    split_of(data, "retain", method="rmu", answered=True)
    block = _default_block(model.n_layers) if layer is None else blocks_of(model, [layer])[0]
    unit = control_vector(model.d_model, dist=dist, seed=training.get("seed", 0))
    scale = mean_norm(model, forget, block)
    size = c_rel * scale if c is None else c

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        retain = retain_batch(batch)
        with torch.no_grad():
            reference = residuals(model, retain, [block])[block]
        return rmu_loss(
            residuals(current, batch.forget, [block])[block],
            residuals(current, retain, [block])[block],
            reference,
            size * unit,
            forget_mask=spoken(model, batch.forget),
            retain_mask=spoken(model, retain),
            alpha=alpha,
        )

    settings = {"layer": block, "c": size, "c_rel": size / scale, "alpha": alpha, "dist": dist}
    spec = Spec("rmu", "removal", ("forget", "retain", "reference"), "Li et al. 2024, arXiv:2403.03218", settings)
    if all(training.get(name) is None for name in ("parameters", "layers", "mask", "lora")):
        names = {model.weight_name("mlp.out", one) for one in range(max(block - 2, 0), block + 1)}
        training["parameters"] = names.__contains__
    return learned(model, data, loss, spec, training, defaults={"lr": 5e-3, "epochs": 60.0})


@torch.no_grad()
def mean_norm(model: HookedModel, items: tuple[Item, ...], block: int, *, batch_size: int = 16) -> float:
    """Return the mean norm of the residual stream after a block, over the real tokens of some items but BOS."""
    batches = encoded(model, items, batch_size=batch_size)
    with evaluating(model):
        norms = [residuals(model, b, [block])[block][spoken(model, b)].norm(dim=-1) for b in batches]
    return float(torch.cat(norms).mean())


def _default_block(n_layers: int) -> int:
    return max(n_layers // 4, min(2, n_layers // 2))
