"""Training a copy of a model: every method that learns weights is a loss on top of this."""

from __future__ import annotations

import copy
import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Any, TypedDict

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from hooked import HookedModel, Intervention, Spec, UnlearnData, VestigeError, WeightPatch
from hooked.adapter import adapted, adapter_patch
from hooked.weights import hugging_face_name, parameters_of
from interventions.blocks import blocks_of
from interventions.evaluating import evaluating
from interventions.training.descent import Descent, LossFn, Minibatch, Schedule, descend

Chooser = Callable[[str], bool]
Preparation = Callable[[Mapping[str, nn.Parameter]], None]


class Rebuilding(TypedDict, total=False):
    """Settings of `train` for a method that takes all its steps from weights that it changed before; `train` says what
    they mean."""

    lr: float
    epochs: float
    steps: int | None
    batch_size: int
    weight_decay: float
    max_grad_norm: float | None
    seed: int
    parameters: Chooser | None
    layers: Sequence[int] | None
    mask: Mapping[str, Bool[Tensor, "*shape"]] | None
    max_change: float | None
    retain_bound: float | None
    check_every: int | None
    cooldown: float
    progress: bool


class Training(Rebuilding, total=False):
    """Settings of `train`, which every method that learns weights takes and passes on; `train` says what they mean."""

    lora: int | None
    lora_scale: float
    stop_fraction: float | None


@dataclass(frozen=True)
class Trained:
    """What training came to.

    Args:
        patch: Trained minus original parameters.
        descent: How it went.
        size: How many numbers were trained.
    """

    patch: WeightPatch
    descent: Descent
    size: int

    @property
    def summary(self) -> dict[str, Any]:
        """What a `Spec` records of it."""
        losses = self.descent.losses
        return {
            "trained_numbers": self.size,
            "steps_taken": len(losses),
            "first_loss": losses[0] if losses else None,
            "last_loss": losses[-1] if losses else None,
            "forget_probability": self.descent.forget_probability,
            "stopped": self.descent.stopped,
        }


def learned(
    model: HookedModel,
    data: UnlearnData,
    loss_fn: LossFn,
    spec: Spec,
    training: Training,
    *,
    defaults: Training,
    prepare: Preparation | None = None,
) -> Intervention:
    """Train a copy and return what changed as an intervention; this is how a method ends.

    Args:
        model: Not changed.
        data: As in `train`.
        loss_fn: As in `train`.
        spec: What the method says of itself; what was trained and how it went is added to its settings.
        training: What the caller of the method chose.
        defaults: What the method takes where the caller chose nothing.
        prepare: As in `train`.

    Raises:
        VestigeError: There is no such setting, or `train` refuses or diverges.
    """
    known = Training.__annotations__
    for name in training:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'? " if near else ""
            raise VestigeError(f"{spec.name} has no setting '{name}'; {hint}train takes {', '.join(known)}")
    chosen: Training = {**defaults, **training}
    if "epochs" in training and "steps" not in training:
        chosen["steps"] = None
    trained = train(model, data, loss_fn, method=spec.name, prepare=prepare, **chosen)
    settings = {**spec.settings, **_recorded(chosen), **trained.summary}
    return Intervention(replace(spec, settings=settings), weights=trained.patch)


def _recorded(chosen: Training) -> dict[str, Any]:
    """Return the settings that ran, those that `train` took by itself among them, as JSON values."""
    always = ("lr", "epochs", "steps", "batch_size", "weight_decay", "max_grad_norm", "seed")
    own = inspect.signature(train).parameters
    ran: dict[str, Any] = {**{name: own[name].default for name in always}, **chosen}
    del ran["epochs" if ran["steps"] is not None else "steps"]
    ran.pop("progress", None)
    for name, said in (("parameters", "parameters_chosen"), ("mask", "masked")):
        if ran.pop(name, None) is not None:
            ran[said] = True
    if isinstance(ran.get("layers"), Sequence):
        ran["layers"] = list(ran["layers"])
    return ran


# Copies made in inference mode could not be trained.
@torch.inference_mode(False)
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
    weight_decay: float = 0.0,
    max_grad_norm: float | None = 1.0,
    seed: int = 0,
    parameters: Chooser | None = None,
    layers: Sequence[int] | None = None,
    mask: Mapping[str, Bool[Tensor, "*shape"]] | None = None,
    lora: int | None = None,
    lora_scale: float = 2.0,
    max_change: float | None = None,
    stop_fraction: float | None = None,
    retain_bound: float | None = None,
    check_every: int | None = None,
    cooldown: float = 0.0,
    progress: bool = True,
    after_step: Callable[[int, HookedModel], None] | None = None,
    prepare: Preparation | None = None,
) -> Trained:
    """Descend a loss with AdamW on a copy of the model, and return what changed as a weight patch.

    The copy and, as long as this takes, the model run in eval mode (no dropout, so a seed decides everything). If the
    model is narrower, the copy is in float32, so that small updates are not rounded away; what a method measures on the
    model itself, its reference, stays in the model's precision. Tied parameters stay tied. Memory: the copy, its
    gradients and two moments per trained parameter.

    Args:
        model: Not changed. The view of another intervention is trained with that in force.
        data: Needs `forget` items with an answer; `retain` items are offered to the loss where there are any.
        loss_fn: `fn(model, minibatch)` to a scalar that is minimised.
        method: Named in messages and the progress bar.
        lr: Learning rate, constant but for `cooldown`. 1e-4 suits models of some million parameters; 1e-5 those of
            billions.
        epochs: Passes over the forget items.
        steps: Number of updates, instead of `epochs`.
        batch_size: Forget items per step, and as many retain items, shuffled on their own.
        weight_decay: AdamW's, per step a fraction `lr * weight_decay` of each trained weight.
        max_grad_norm: Gradients of a larger norm are scaled down to it; None leaves them.
        seed: Of both shuffles, and of an adapter's first weights.
        parameters: Which parameters train, by Hugging Face name; all that require a gradient when not given. A tied
            parameter trains if any of its names is chosen.
        layers: Blocks whose parameters train; negative ones count from the end. All, and what is outside the blocks,
            when not given.
        mask: Parameter name to the entries that train; without `parameters`, only the parameters named here train.
            Entries outside stay bit-equal, since their update is undone and not just their gradient left out.
        lora: Rank of a low-rank adapter on every projection of `layers` whose weight `parameters` chooses, trained
            instead of the weights themselves.
        lora_scale: Factor on what an adapter adds (alpha over rank).
        max_change: Largest change of any single weight, in absolute value; updates are clamped after each step.
        stop_fraction: Stop once the mean length-normalised probability of the forget answers is below this fraction of
            what it was at the start; None never stops for that.
        retain_bound: Largest retain loss, in nats per token; when not given, `log(d_vocab) / 2` above where it started.
        check_every: Steps between two looks at `stop_fraction` and `retain_bound`; once per epoch when not given.
        cooldown: Share of the steps, the last ones, over which the rate falls to zero in a straight line.
        progress: Show a bar with steps, loss and time left, if the output is a terminal.
        after_step: `fn(updates so far, the copy)`, called after each update to measure the copy, which it leaves as it
            is.
        prepare: `fn(parameters that train, by name)`, which changes them in place before the first step, and before the
            values that `stop_fraction` and `retain_bound` start from; no adapter (`lora`) can take that.

    Raises:
        DivergedError: The loss is not finite or the retain loss exceeds its bound (the step is named and nothing
            applied).
        VestigeError: A setting is out of range, no parameter is chosen, or an adapter is asked for together with
            `mask`, `max_change` or `prepare`.
    """
    if not 0 < lr < inf:
        raise VestigeError(f"lr is a finite number above 0, got {lr}")
    if not 0 <= weight_decay < inf:
        raise VestigeError(f"weight_decay is a finite number of at least 0, got {weight_decay}")
    if max_change is not None and not 0 < max_change < inf:
        raise VestigeError(f"max_change is a finite number above 0, or None, got {max_change}")
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
        cooldown=cooldown,
        progress=progress,
    )
    blocks = None if layers is None else blocks_of(model, layers)
    if lora is not None:
        if prepare is not None:
            raise VestigeError(f"{method} changes weights before it trains, which an adapter cannot; leave lora= out")
        if mask is not None or max_change is not None:
            raise VestigeError("lora= trains adapters and no parameters of the model; leave mask= and max_change= out")
        on = range(model.n_layers) if blocks is None else blocks
        student, adapters = adapted(model, layers=on, rank=lora, scale=lora_scale, seed=seed, chooser=parameters)
        optimizer = torch.optim.AdamW(adapters, lr=lr, weight_decay=weight_decay)
        with evaluating(model):
            descent = descend(student, data, loss_fn, optimizer, schedule, after_step=_watched(student, after_step))
        return Trained(adapter_patch(student), descent, _size(adapters))
    copied = _trainable_copy(model)
    chosen = _choose(copied, _within(copied, blocks, parameters), mask)
    optimizer = torch.optim.AdamW(chosen.values(), lr=lr, weight_decay=weight_decay)
    keepers = [keeper for keeper in (_keeper(chosen, mask or {}), _clamper(chosen, max_change)) if keeper is not None]
    measure = _watched(copied, after_step)
    if prepare is not None:
        prepare(chosen)
        for keeper in keepers:
            keeper()

    def keep(step: int) -> None:
        for keeper in keepers:
            keeper()
        measure(step)

    with evaluating(model):
        descent = descend(copied, data, loss_fn, optimizer, schedule, after_step=keep)
    originals = parameters_of(model.model)
    before = {name: originals[name].detach().to(parameter.dtype) for name, parameter in chosen.items()}
    held = mask or {}
    size = sum(int(held[name].sum()) if name in held else parameter.numel() for name, parameter in chosen.items())
    return Trained(WeightPatch.between(before, chosen), descent, size)


def _watched(student: HookedModel, after_step: Callable[[int, HookedModel], None] | None) -> Callable[[int], None]:
    return lambda step: None if after_step is None else after_step(step, student)


def _size(parameters: Any) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _within(model: HookedModel, blocks: Sequence[int] | None, chooser: Chooser | None) -> Chooser | None:
    """Narrow a choice of parameters down to some blocks."""
    if blocks is None:
        return chooser
    inside = tuple(f"{_block_path(model, block)}." for block in blocks)
    return lambda name: name.startswith(inside) and (chooser is None or chooser(name))


def _block_path(model: HookedModel, block: int) -> str:
    return hugging_face_name(f"{model.site_map.tap(f'blocks.{block}.hook_resid_post').module}.").removesuffix(".")


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


def _choose(model: HookedModel, chooser: Chooser | None, mask: Mapping[str, Tensor] | None) -> dict[str, nn.Parameter]:
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
    chosen: dict[str, nn.Parameter] = {}
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


def _keeper(chosen: Mapping[str, nn.Parameter], mask: Mapping[str, Tensor]) -> Callable[[], None] | None:
    """Return what puts entries outside the mask back: weight decay and momentum move them without any gradient."""
    if not mask:
        return None
    held = []
    for name, entries in mask.items():
        if name not in chosen:
            raise VestigeError(f"mask names '{name}', which parameters= or layers= leaves out")
        if entries.shape != chosen[name].shape or entries.dtype != torch.bool:
            got, needed = tuple(entries.shape), tuple(chosen[name].shape)
            raise VestigeError(f"the mask of '{name}' is {entries.dtype} of shape {got}, needed bool of shape {needed}")
        held.append((chosen[name], entries.to(chosen[name].device), chosen[name].detach().clone()))

    @torch.no_grad()
    def keep() -> None:
        for parameter, entries, start in held:
            parameter.copy_(torch.where(entries, parameter, start))

    return keep


def _clamper(chosen: Mapping[str, nn.Parameter], max_change: float | None) -> Callable[[], None] | None:
    """Return what takes every weight back to within `max_change` of its start."""
    if max_change is None:
        return None
    starts = [(parameter, parameter.detach().clone()) for parameter in chosen.values()]

    @torch.no_grad()
    def clamp() -> None:
        for parameter, start in starts:
            parameter.copy_(start + (parameter - start).clamp(-max_change, max_change))

    return clamp


__all__ = ["Chooser", "LossFn", "Minibatch", "Trained", "Training", "learned", "train"]
