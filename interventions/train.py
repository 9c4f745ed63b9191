"""Training a copy of a model: every method that learns weights is a loss on top of this."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from hooked import HookedModel, UnlearnData, VestigeError, WeightPatch
from hooked.weights import parameters_of

from .descent import Descent, LossFn, Minibatch, Schedule, descend

Chooser = Callable[[str], bool]


@dataclass(frozen=True)
class Trained:
    """What training came to.

    Args:
        patch: Trained minus original parameters.
        descent: How it went.
    """

    patch: WeightPatch
    descent: Descent

    @property
    def summary(self) -> dict[str, Any]:
        """What a `Spec` records of it."""
        losses = self.descent.losses
        return {
            "steps_taken": len(losses),
            "first_loss": losses[0] if losses else None,
            "last_loss": losses[-1] if losses else None,
            "forget_probability": self.descent.forget_probability,
            "stopped": self.descent.stopped,
        }


def train(
    model: HookedModel,
    data: UnlearnData,
    loss_fn: LossFn,
    *,
    method: str = "train",
    lr: float = 1e-4,
    epochs: float = 10.0,
    steps: int | None = None,
    batch_size: int = 16,
    weight_decay: float = 0.01,
    max_grad_norm: float | None = 1.0,
    seed: int = 0,
    parameters: Chooser | None = None,
    mask: Mapping[str, Bool[Tensor, ...]] | None = None,
    stop_fraction: float | None = None,
    retain_bound: float | None = None,
    check_every: int | None = None,
    progress: bool = True,
) -> Trained:
    """Descend a loss with AdamW on a copy of the model, and return what changed as a weight patch.

    The copy runs in eval mode (no dropout, so a seed decides everything) and, if the model is narrower, in float32, so
    that small updates are not rounded away; tied parameters stay tied. Memory: the copy, its gradients and two moments
    per trained parameter.

    Args:
        model: Not changed.
        data: Needs `forget` items with an answer; `retain` items are offered to the loss where there are any.
        loss_fn: `fn(model, minibatch)` to a scalar that is minimised.
        method: Named in messages and the progress bar.
        lr: Constant learning rate.
        epochs: Passes over the forget items.
        steps: Number of updates, instead of `epochs`.
        batch_size: Forget items per step, and as many retain items, shuffled on their own.
        weight_decay: AdamW's, per step a fraction `lr * weight_decay` of each trained weight.
        max_grad_norm: Gradients of a larger norm are scaled down to it; None leaves them.
        seed: Of both shuffles.
        parameters: Which parameters train, by Hugging Face name; all that require a gradient when not given. A tied
            parameter trains if any of its names is chosen.
        mask: Parameter name to the entries that train; without `parameters`, only the parameters named here train.
            Entries outside stay bit-equal, since their update is undone and not just their gradient left out.
        stop_fraction: Stop once the mean length-normalised probability of the forget answers is below this fraction of
            what it was at the start; None never stops for that.
        retain_bound: Largest retain loss, in nats per token; when not given, `log(d_vocab) / 2` above where it started.
        check_every: Steps between two looks at `stop_fraction` and `retain_bound`; once per epoch when not given.
        progress: Show a bar with steps, loss and time left, if the output is a terminal.

    Raises:
        VestigeError: The loss is not finite or the retain loss exceeds its bound (the step is named and nothing
            applied), or no parameter is chosen.
    """
    if not 0 < lr < inf:
        raise VestigeError(f"lr is a finite number above 0, got {lr}")
    schedule = Schedule(
        method=method,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        seed=seed,
        max_grad_norm=max_grad_norm,
        stop_fraction=stop_fraction,
        retain_bound=retain_bound,
        check_every=check_every,
        progress=progress,
    )
    copied = _trainable_copy(model)
    chosen = _choose(copied, parameters, mask)
    optimizer = torch.optim.AdamW(chosen.values(), lr=lr, weight_decay=weight_decay)
    keep = _keeper(chosen, mask or {})
    descent = descend(copied, data, loss_fn, optimizer, schedule, after_step=keep)
    originals = parameters_of(model.model)
    before = {name: originals[name].detach().to(parameter.dtype) for name, parameter in chosen.items()}
    return Trained(WeightPatch.between(before, chosen), descent)


def _trainable_copy(model: HookedModel) -> HookedModel:
    copied = copy.deepcopy(model, {id(model.tokenizer): model.tokenizer})
    for parameter in copied.model.parameters():
        if parameter.is_meta or not parameter.is_floating_point():
            state = "offloaded" if parameter.is_meta else f"stored as {parameter.dtype}"
            raise VestigeError(
                f"training needs floating point weights in memory, and some are {state}; load the model unquantised"
            )
    if any(parameter.dtype in (torch.bfloat16, torch.float16) for parameter in copied.model.parameters()):
        copied.model.float()
    copied.model.eval()
    return copied


def _choose(
    model: HookedModel, chooser: Chooser | None, mask: Mapping[str, Tensor] | None
) -> dict[str, torch.nn.Parameter]:
    """Return the parameters that train under one name each, and freeze the rest."""
    names: dict[int, list[str]] = {}
    everything = parameters_of(model.model)
    for name, parameter in everything.items():
        names.setdefault(id(parameter), []).append(name)
    unknown = [name for name in mask or {} if name not in everything]
    if unknown:
        raise VestigeError(
            f"mask names '{unknown[0]}', and the model has no such parameter; one is '{next(iter(everything))}'"
        )
    chosen: dict[str, torch.nn.Parameter] = {}
    for aliases in names.values():
        parameter = everything[aliases[0]]
        if chooser is not None:
            wanted = any(chooser(name) for name in aliases)
        elif mask is not None:
            wanted = any(name in mask for name in aliases)
        else:
            wanted = parameter.requires_grad
        parameter.requires_grad_(wanted)
        if wanted:
            masked = next((name for name in aliases if name in (mask or {})), aliases[0])
            chosen[masked] = parameter
    if not chosen:
        raise VestigeError(
            f"no parameter trains; choose some with parameters=, e.g. lambda name: name == '{next(iter(everything))}'"
        )
    return chosen


def _keeper(chosen: Mapping[str, torch.nn.Parameter], mask: Mapping[str, Tensor]) -> Callable[[], None] | None:
    """Return what puts entries outside the mask back: weight decay and momentum move them without any gradient."""
    if not mask:
        return None
    held = []
    for name, entries in mask.items():
        if name not in chosen:
            raise VestigeError(f"mask names '{name}', which parameters= leaves out")
        if entries.shape != chosen[name].shape or entries.dtype != torch.bool:
            got, needed = tuple(entries.shape), tuple(chosen[name].shape)
            raise VestigeError(f"the mask of '{name}' is {entries.dtype} of shape {got}, needed bool of shape {needed}")
        held.append((chosen[name], entries.to(chosen[name].device), chosen[name].detach().clone()))

    @torch.no_grad()
    def keep() -> None:
        for parameter, entries, start in held:
            parameter.copy_(torch.where(entries, parameter, start))

    return keep


__all__ = ["LossFn", "Minibatch", "Trained", "train"]
