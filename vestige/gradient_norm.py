"""Gradient norms: a text that a model was trained on pulls less at its weights."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch

from hooked import HookedModel, Item, VestigeError
from interventions import answer_nll
from interventions.batches import encode
from interventions.evaluating import evaluating


def gradient_norm_scores(model: HookedModel, items: Sequence[Item], *, p: float = 2.0) -> tuple[float, ...]:
    """Return, per item, the mean over parameter tensors of the p-norm of their gradient of the answer's mean NLL.

    It is a mean of norms, not the norm of the whole gradient; tied parameters count once, parameters that the answer
    does not depend on not at all. Dropout is off. The model is left as it was, its gradients included.

    higher_is: forgotten, as all scores of `vestige.metrics.membership`. Range [0, inf). Floor: none.

    Args:
        model: A model or a view, with floating point weights.
        items: With answers; one backward pass each.
        p: Order of the norm, above 0; infinity is the largest entry.

    Raises:
        VestigeError: No item, one without an answer, a wrong `p`, or weights that have no gradient.

    Source:
        Wang et al. 2024, *Pandora's White-Box*, arXiv:2402.17012. The release of open-unlearning measures in train
        mode, dropout on.
    """
    bare = next((i for i, item in enumerate(items) if item.generation_only), None)
    if not items or bare is not None:
        what = "at least one item, got none" if bare is None else f"answers, and item {bare} has none"
        raise VestigeError(f"gradient norms need {what}")
    if not 0 < p <= inf:
        raise VestigeError(f"the order p of a norm is above 0, got {p}")
    parameters = list(model.model.parameters())
    packed = next((one.dtype for one in parameters if not one.is_floating_point() or one.is_meta), None)
    if packed is not None:
        raise VestigeError(f"gradients need floating point weights in memory, got {packed}; load the model unquantised")
    wanted = [parameter.requires_grad for parameter in parameters]
    with evaluating(model), torch.inference_mode(False), torch.enable_grad():
        try:
            for parameter in parameters:
                parameter.requires_grad_(True)
            return tuple(_score(model, item, parameters, p) for item in items)
        finally:
            for parameter, before in zip(parameters, wanted, strict=True):
                parameter.requires_grad_(before)


def _score(model: HookedModel, item: Item, parameters: Sequence[torch.nn.Parameter], p: float) -> float:
    batch = encode(model, [item])
    loss = answer_nll(model.logits(batch), batch.ids, batch.answer).mean.sum()
    found = [grad for grad in torch.autograd.grad(loss, parameters, allow_unused=True) if grad is not None]
    # Wide enough that the norm of a large half-precision tensor does not overflow.
    norms = [torch.linalg.vector_norm(grad.to(torch.promote_types(grad.dtype, torch.float32)), p) for grad in found]
    return float(torch.stack([norm.cpu().double() for norm in norms]).mean())
