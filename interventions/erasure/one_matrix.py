"""What the six defences share: one weight matrix learns, and on neutral text the model stays close to the original."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from math import inf
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData, VestigeError
from hooked.weights import hugging_face_name
from interventions.batches import split_of
from interventions.training.descent import Minibatch
from interventions.training.losses import at_least_float32, predicting
from interventions.training.train import Training, learned

SOURCE = "Patil, Hase, Bansal 2023, arXiv:2309.17410"


def kl_to_original(
    logits: Float[Tensor, "batch pos d_vocab"],
    original: Float[Tensor, "batch pos d_vocab"],
    mask: Bool[Tensor, "batch pos"],
) -> Float[Tensor, ""]:
    """Average `KL(p || p0)` over the masked positions, in nats; p is edited, p0 original.

    The other direction than `kl_retain`: it is large where the edited model says what the original would not.

    Args:
        logits: Of the model in training, on neutral text.
        original: Of the original on the same tokens; no gradient flows into it.
        mask: Positions to compare.

    Raises:
        VestigeError: Shapes differ or nothing is masked.

    Source:
        Meng et al. 2022, *ROME*, arXiv:2202.05262, whose release has this direction.
    """
    if logits.shape != original.shape or mask.shape != logits.shape[:2] or not bool(mask.any()):
        shapes = [list(t.shape) for t in (logits, original, mask)]
        raise VestigeError(f"a KL term needs two logits of one shape and a mask that marks something, got {shapes}")
    log_p = at_least_float32(logits[mask]).log_softmax(-1)
    log_p0 = at_least_float32(original.detach()[mask]).log_softmax(-1)
    return F.kl_div(log_p0, log_p, reduction="none", log_target=True).sum(-1).mean()


def edit_matrix(
    model: HookedModel,
    data: UnlearnData,
    loss: Callable[[HookedModel, Minibatch], Tensor],
    training: Training,
    *,
    name: str,
    layer: int | None,
    part: str,
    kl_weight: float,
    settings: Mapping[str, Any],
) -> Intervention:
    """Descend `loss + kl_weight KL(edited || original)` in one weight matrix; this is how a defence ends.

    Args:
        model: Not changed; also the original of the KL term.
        data: As in `train`; the KL term is taken at the predictions of the retain answers.
        loss: What the defence adds.
        training: What the caller of the defence chose.
        name: Of the defence.
        layer: Block of the matrix; the middle one when None.
        part: Which matrix of the block.
        kl_weight: 0 leaves the KL term out.
        settings: Recorded in the spec, beside those above.

    Raises:
        VestigeError: The matrix does not exist, the caller chose parameters another way, or `learned` refuses.
    """
    given = next((key for key in ("parameters", "layers") if training.get(key) is not None), None)
    if given is not None:
        raise VestigeError(f"{name} trains one weight matrix, named by layer= and part=; leave {given}= out")
    if not 0 <= kl_weight < inf:
        raise VestigeError(f"kl_weight is a finite number of at least 0, got {kl_weight}")
    split_of(data, "forget", method=name, answered=True)
    if kl_weight > 0:
        split_of(data, "retain", method=f"{name} with kl_weight={kl_weight:g}", answered=True)
    block = middle_of(model, layer)
    matrix = hugging_face_name(model.weight_name(part, block))

    def total(current: HookedModel, batch: Minibatch) -> Tensor:
        value = loss(current, batch)
        if kl_weight == 0 or batch.retain is None:
            return value
        with torch.no_grad():
            before = model.logits(batch.retain)
        return value + kl_weight * kl_to_original(current.logits(batch.retain), before, predicting(batch.retain.answer))

    needs = ("forget", "retain", "reference") if kl_weight > 0 else ("forget",)
    spec = Spec(name, "removal", needs, SOURCE, {**settings, "layer": block, "part": part, "kl_weight": kl_weight})
    chosen: Training = {**training, "parameters": lambda parameter: parameter == matrix}
    return learned(model, data, total, spec, chosen, defaults={"lr": 3e-3, "epochs": 40.0})


def middle_of(model: HookedModel, layer: int | None) -> int:
    """Return a block counted from 0; the middle one for None."""
    if layer is None:
        return model.n_layers // 2
    model.block_part(layer, "mlp.out")
    return layer % model.n_layers


def with_prompts(data: UnlearnData, *, method: str) -> UnlearnData:
    """Leave out forget items without a prompt or without an answer.

    Raises:
        VestigeError: Nothing is left.
    """
    kept = tuple(i for i in split_of(data, "forget", method=method, answered=True) if not i.is_document)
    if not kept:
        raise VestigeError(f"{method} needs forget items with a prompt, and all are plain documents")
    return replace(data, forget=kept)
