"""Selective pruning: switch off the neurons that matter more to forget text than to retain text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import Edit, HookContext, HookedModel, Intervention, Spec, UnlearnData, VestigeError
from hooked.sites import SiteLike
from interventions.batches import split_of

from .neurons import by_layer, count_of, neuron_moments, refuse_experts

_SOURCE = "Pochinkov, Schoots 2024, arXiv:2403.01267"


@dataclass(frozen=True)
class ZeroNeurons:
    """Edit of `mlp.hook_post`: sets some neurons to zero."""

    neurons: Int[Tensor, " neurons"]

    def __call__(self, activation: Float[Tensor, "batch pos d_mlp"], /, hook: HookContext) -> Tensor:
        return activation.index_fill(-1, self.neurons.to(activation.device), 0.0)


def selective_pruning(
    model: HookedModel,
    data: UnlearnData,
    *,
    top: float = 0.01,
    form: Literal["weights", "hooks"] = "weights",
    min_forget: float = 0.0,
    relative_epsilon: float = 1e-8,
    batch_size: int = 32,
) -> Intervention:
    """Zero the neurons with the highest ratio of mean absolute activation on forget text to that on retain text.

    `I = E_f|a| / (E_r|a| + relative_epsilon * mean of E_r|a| over the block)`, ranked over all blocks together; neurons
    that tie with the last one chosen are pruned too.

    Args:
        model: Any model with dense MLPs; not changed.
        data: Needs `forget` and `retain`.
        top: Fraction of all neurons that is pruned, in (0, 1]; published from 0.0001.
        form: `weights` zeroes the neurons' value vectors, `hooks` the activations; the outputs are equal.
        min_forget: Neurons below this fraction of their block's mean `E_f|a|` are left alone; it keeps out neurons that
            are silent on both texts but slightly less so on forget text.
        relative_epsilon: Keeps the ratio finite for neurons that are dead on retain text.
        batch_size: Items per forward pass while scoring.

    Raises:
        VestigeError: A split is missing, a setting is out of range, no neuron passes `min_forget`, or the model is a
            mixture of experts.

    Source:
        Pochinkov, Schoots 2024, arXiv:2403.01267, in the one-shot variant that Li, Sun, Weng 2025 (arXiv:2503.21730)
        use as a baseline; the paper also prunes in rounds. Here the epsilon is relative to the block's scale.
    """
    refuse_experts(model, method="selective_pruning")
    if form not in ("weights", "hooks"):
        raise VestigeError(f"form is 'weights' or 'hooks', got {form!r}")
    if not (relative_epsilon > 0 and min_forget >= 0):
        raise VestigeError(
            f"relative_epsilon is above 0 and min_forget at least 0, got {relative_epsilon} and {min_forget}"
        )
    means = [
        [
            moments.mean
            for moments in neuron_moments(
                model,
                split_of(data, split, method="selective_pruning"),
                kind="mlp_post",
                batch_size=batch_size,
                absolute=True,
            )
        ]
        for split in ("forget", "retain")
    ]
    scores = [_importance(f, r, min_forget, relative_epsilon) for f, r in zip(*means, strict=True)]
    chosen = by_layer(_top_with_ties(torch.cat(scores), top), [len(s) for s in scores])
    settings = {
        "top": top,
        "form": form,
        "min_forget": min_forget,
        "relative_epsilon": relative_epsilon,
        "neurons": sum(len(neurons) for neurons in chosen.values()),
    }
    needs = ("forget", "retain")
    if form == "hooks":
        edits: dict[SiteLike, Edit] = {
            model.site_map.resolve(("mlp_post", layer)): ZeroNeurons(neurons) for layer, neurons in chosen.items()
        }
        return Intervention(Spec("selective_pruning", "suppression", needs, _SOURCE, settings), edits=edits)
    rows = {
        (layer, neuron): torch.zeros_like(model.value_vectors(layer)[neuron])
        for layer, neurons in chosen.items()
        for neuron in neurons.tolist()
    }
    return Intervention(Spec("selective_pruning", "removal", needs, _SOURCE, settings), weights=model.value_patch(rows))


def _importance(forget: Tensor, retain: Tensor, min_forget: float, relative_epsilon: float) -> Float[Tensor, " d_mlp"]:
    tiny = torch.finfo(retain.dtype).tiny
    ratio = forget / (retain + relative_epsilon * retain.mean() + tiny)
    return torch.where(forget >= min_forget * forget.mean(), ratio, -torch.inf)


def _top_with_ties(scores: Float[Tensor, " n"], top: float) -> Int[Tensor, " chosen"]:
    last = scores.sort(descending=True).values[count_of(len(scores), top) - 1]
    chosen = ((scores >= last) & scores.isfinite()).nonzero().flatten()
    if len(chosen) == 0:
        raise VestigeError("no neuron passes min_forget; lower it")
    return chosen
