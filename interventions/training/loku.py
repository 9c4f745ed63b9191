"""LoKU: an inverted hinge hands the probability of a forget token to its runner-up, learned by Fisher adapters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Unpack

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked import DenseDelta, HookedModel, Intervention, LowRankDelta, Spec, UnlearnData, VestigeError, WeightPatch
from hooked.adapter import adapted, adapter_patch
from interventions.batches import split_of
from interventions.blocks import blocks_of
from interventions.training.descent import Minibatch
from interventions.training.fila import adapters_of, begin
from interventions.training.losses import Reduction, answer_logits
from interventions.training.retain import check_weights, retained
from interventions.training.train import Training, learned


def ihl_loss(
    logits: Float[Tensor, "batch pos d_vocab"],
    ids: Int[Tensor, "batch pos"],
    answer: Bool[Tensor, "batch pos"],
    *,
    reduction: Reduction = "token",
) -> Float[Tensor, ""]:
    """Return the mean of `1 + p(target) - max p(other)` over the answer tokens, in [0, 2].

    Always of softmax probabilities; the release skips the softmax where all logits happen to lie in [0, 1].

    The pull on the target's logit is `p_s (1 + p_m - p_s)`, which fades as p_s does, where that of gradient ascent
    stays at 1. What is left then sharpens the runner-up m towards 1, so entropy falls.

    Args:
        logits: Next-token logits; those at t-1 predict token t.
        ids: Token ids.
        answer: True on answer tokens; False at position 0, which nothing predicts.
        reduction: `token` (the release) weighs tokens equally, `mean` answers.

    Raises:
        VestigeError: As `answer_nll`.

    Source:
        Cha et al. 2024, arXiv:2408.06621.
    """
    chosen, tokens = answer_logits(logits, ids, answer)
    probability, targets = chosen.softmax(-1), tokens[:, None]
    target = probability.gather(-1, targets).squeeze(-1)
    runner_up = probability.scatter(-1, targets, -1.0).max(-1).values
    hinge = 1 + target - runner_up
    if reduction == "token":
        return hinge.mean()
    if reduction == "mean":
        counts = answer.sum(-1)
        return (hinge / counts.repeat_interleave(counts)).sum() / len(counts)
    raise VestigeError(f"reduction must be 'mean' or 'token', got {reduction!r}")


# What inference mode makes cannot be trained.
@torch.inference_mode(False)
def loku(
    model: HookedModel,
    data: UnlearnData,
    *,
    fisher: bool = True,
    retain_weight: float = 1.0,
    reduction: Reduction = "token",
    **training: Unpack[Training],
) -> Intervention:
    """Descend `IHL(forget) + retain_weight CE(retain)` on low-rank adapters that start where Fisher information says.

    Only the adapters learn, and their first product is taken out of the base weights, so that nothing changes at first.
    The intervention carries both, so leaving it gives the original weights back.

    Args:
        model: Not changed.
        data: Needs `forget` items with an answer; `retain` ones unless `retain_weight` is 0 and `fisher` is off.
        fisher: Start from Fisher information (FILA); off, from adapters that add nothing, which learns more slowly.
        retain_weight: Weight of the retain term; 0 leaves it out.
        reduction: As in `ihl_loss`.
        training: Settings of `train` but `parameters`, `mask` and `max_change`; here `lora` is 16 with `lora_scale` 2,
            `lr` is 1e-3 and `epochs` 20. `batch_size` is that of the Fisher gradients too. Published: rank 4 to 32, lr
            2e-4 at 1.5 and 1e-4 at 7 billion parameters, 5 epochs in batches of 32.

    Raises:
        VestigeError: A split has no item with an answer, `parameters`, `mask` or `max_change` is given, the rank is
            larger than a weight matrix has, or training diverged.

    Source:
        Cha, Cho, Hwang, Lee 2024, arXiv:2408.06621. Adapters go on every projection of the blocks; no warm-up.
    """
    check_weights(data, method="loku", retain_weight=retain_weight)
    for name in ("parameters", "mask", "max_change"):
        if training.get(name) is not None:
            raise VestigeError(f"loku trains adapters and no parameters of the model; leave {name}= out")
    forget = split_of(data, "forget", method="loku", answered=True)
    uses_retain = fisher or retain_weight > 0
    retain = split_of(data, "retain", method="loku", answered=True) if uses_retain else ()

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        forgotten = ihl_loss(current.logits(batch.forget), batch.forget.ids, batch.forget.answer, reduction=reduction)
        return forgotten + retained(current, batch, weight=retain_weight)

    needs = ("forget", "retain") if uses_retain else ("forget",)
    settings: dict[str, Any] = {"fisher": fisher, "retain_weight": retain_weight, "reduction": reduction}
    spec = Spec("loku", "removal", needs, "Cha et al. 2024, arXiv:2408.06621", settings)
    defaults: Training = {"lr": 1e-3, "epochs": 20.0, "lora": 16, "lora_scale": 2.0}
    if not fisher:
        return learned(model, data, loss, spec, training, defaults=defaults)

    chosen: Training = {**defaults, **training, "parameters": _is_adapter}
    rank, scale, seed = chosen.pop("lora"), chosen.pop("lora_scale"), chosen.get("seed", 0)
    layers = chosen.pop("layers", None)
    blocks = list(range(model.n_layers)) if layers is None else blocks_of(model, layers)
    if rank is None:
        raise VestigeError("loku with fisher=True trains adapters; give their rank with lora=")
    student, _ = adapted(model, layers=blocks, rank=rank, scale=scale, seed=seed)
    shift = begin(student, forget, retain, batch_size=chosen.get("batch_size", 16), seed=seed)
    settings |= {"lora": rank, "lora_scale": scale, "layers": blocks}
    # The copy of the copy: `learned` returns what its adapters became, and the copy itself keeps what they were.
    made = learned(student, data, loss, replace(spec, settings=settings), chosen, defaults={})
    _take(student, made)
    return replace(made, weights=_together(shift, student))


def _is_adapter(name: str) -> bool:
    return ".lora_A." in name or ".lora_B." in name


@torch.no_grad()
def _take(student: HookedModel, made: Intervention) -> None:
    """Give the adapters of a copy the weights that were learned for them."""
    deltas = {} if made.weights is None else made.weights.deltas
    for name, layer in adapters_of(student).items():
        for part in ("lora_A", "lora_B"):
            weight = getattr(layer, part)["default"].weight
            delta = deltas.get(name.removesuffix("weight") + f"{part}.default.weight")
            if isinstance(delta, DenseDelta):
                weight.add_(delta.values.to(weight))


def _together(shift: Mapping[str, LowRankDelta], student: HookedModel) -> WeightPatch:
    """Return what was taken out of the base and what the adapters of a copy add, as one patch."""
    added = adapter_patch(student).deltas
    return WeightPatch(
        {
            name: LowRankDelta(torch.cat([one.left, other.left], 1), torch.cat([one.right, other.right]))
            for name, one in shift.items()
            if isinstance(other := added[name], LowRankDelta)
        }
    )
