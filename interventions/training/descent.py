"""Descending a loss over minibatches of forget and retain items, with its shuffles, stops and progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil, inf, log

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import HookedModel, Item, TokenBatch, UnlearnData, VestigeError
from hooked.progress import bar
from interventions.batches import encode, encoded, split_of, warn_of_cuts
from interventions.training.losses import AnswerNLL, answer_nll

# Most items that are watched; of those to keep fewer, since by default their loss is held against a bound far above.
_FORGET, _RETAIN = 128, 32


@dataclass(frozen=True)
class Minibatch:
    """What a loss sees at one step.

    Args:
        forget: Forget items, prompt and answer.
        rows: Which of the forget items with an answer these are, to look up values computed once.
        retain: Retain items, shuffled on their own; None where the data has none.
    """

    forget: TokenBatch
    rows: Int[Tensor, " batch"]
    retain: TokenBatch | None


LossFn = Callable[[HookedModel, Minibatch], Tensor]


class DivergedError(VestigeError):
    """A descent left the numbers, or the retain items, behind."""


def forget_nll(model: HookedModel, batch: Minibatch) -> AnswerNLL:
    """Score the forget answers of a minibatch."""
    return answer_nll(model.logits(batch.forget), batch.forget.ids, batch.forget.answer)


def retain_nll(model: HookedModel, batch: Minibatch) -> AnswerNLL:
    """Score the retain answers of a minibatch.

    Raises:
        VestigeError: The data has no retain items with an answer.
    """
    retain = retain_batch(batch)
    return answer_nll(model.logits(retain), retain.ids, retain.answer)


def retain_batch(batch: Minibatch) -> TokenBatch:
    """Return the retain tokens of a minibatch.

    Raises:
        VestigeError: The data has no retain items with an answer.
    """
    if batch.retain is None:
        raise VestigeError("this loss needs retain items with an answer; give them to load_data(retain=...)")
    return batch.retain


@dataclass(frozen=True)
class Schedule:
    """How far to descend, and when to stop before.

    Args:
        method: Named in messages and the progress bar.
        epochs: Passes over the forget items; not used with `steps`.
        steps: Number of updates.
        batch_size: Forget items per step, and as many retain items.
        seed: Of both shuffles.
        max_grad_norm: Gradients of a larger norm are scaled down to it; None leaves them.
        stop_fraction: Stop once the mean length-normalised probability of the forget answers is below this fraction of
            what it was at the start; None never stops for that.
        retain_bound: Largest retain loss, in nats per token, on 32 items at most; None: `log(d_vocab) / 2` above where
            it started.
        check_every: Steps between two looks at the two numbers above; None: once per pass over the forget items.
        cooldown: Share of the steps, the last ones, over which the rate falls to zero in a straight line.
        progress: Show a bar, if the output is a terminal.

    Raises:
        VestigeError: One of them is out of range.
    """

    method: str
    epochs: float = 10.0
    steps: int | None = None
    batch_size: int = 16
    seed: int = 0
    max_grad_norm: float | None = 1.0
    stop_fraction: float | None = None
    retain_bound: float | None = None
    check_every: int | None = None
    cooldown: float = 0.0
    progress: bool = True

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("check_every", 1), ("steps", 0)):
            value = getattr(self, name)
            if value is not None and not (isinstance(value, int) and value >= least):
                raise VestigeError(f"{name} is a whole number of at least {least}, got {value}")
        if not 0 <= self.epochs < inf:
            raise VestigeError(f"epochs is a finite number of at least 0, got {self.epochs}")
        if self.max_grad_norm is not None and not self.max_grad_norm > 0:
            raise VestigeError(f"max_grad_norm is a number above 0, or None, got {self.max_grad_norm}")
        if self.stop_fraction is not None and not 0 < self.stop_fraction < 1:
            raise VestigeError(f"stop_fraction is a number between 0 and 1, or None, got {self.stop_fraction}")
        if not 0 <= self.cooldown <= 1:
            raise VestigeError(f"cooldown is a number from 0 to 1, got {self.cooldown}")

    def per_epoch(self, n_forget: int) -> int:
        """Return how many updates one pass over the forget items takes."""
        return ceil(n_forget / self.batch_size)

    def length(self, n_forget: int) -> int:
        """Return how many updates are taken, if nothing stops them."""
        return ceil(self.epochs * self.per_epoch(n_forget)) if self.steps is None else self.steps

    def rate(self, step: int, steps: int) -> float:
        """Return the factor on the learning rate at a step, counted from 0, of so many."""
        falling = self.cooldown * steps
        return min(1.0, (steps - step) / falling) if falling else 1.0


@dataclass(frozen=True)
class Descent:
    """How a descent went.

    Args:
        losses: The loss at each step, before its update.
        forget_probability: Mean length-normalised probability of the forget answers at the last check; None if not
            watched.
        stopped: Why it ended, in words.
    """

    losses: tuple[float, ...]
    forget_probability: float | None
    stopped: str


def descend(
    model: HookedModel,
    data: UnlearnData,
    loss_fn: LossFn,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    *,
    after_step: Callable[[int], None] | None = None,
) -> Descent:
    """Update the optimizer's parameters, which `model` must depend on, until the schedule ends.

    `after_step` is told after each update how many there were.

    Raises:
        DivergedError: The loss is not finite or the retain loss exceeds its bound; the message names the step. Whoever
            called then has nothing to apply.
        VestigeError: There is nothing to descend on.
    """
    forget = split_of(data, "forget", method=schedule.method, answered=True)
    retain = tuple(item for item in data.retain if not item.generation_only)
    warn_of_cuts(model, (*forget, *retain), method=schedule.method)
    steps, every = schedule.length(len(forget)), schedule.check_every or schedule.per_epoch(len(forget))
    losses: list[float] = []
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        bar(steps, what=schedule.method, unit=" steps", show=schedule.progress) as shown,
    ):
        watch = _Watch(model, forget, retain, schedule, steps)
        batches = _minibatches(model, forget, retain, schedule)
        peaks = [group["lr"] for group in optimizer.param_groups]
        for step in range(steps):
            if step % every == 0 and watch.is_done(step):
                break
            for group, peak in zip(optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * schedule.rate(step, steps)
            where = f"step {step + 1} of {steps}"
            losses.append(_update(model, next(batches), loss_fn, optimizer, schedule=schedule, where=where))
            if after_step is not None:
                after_step(len(losses))
            shown.update(1)
            shown.note(f"loss {losses[-1]:.4g}")
        else:
            watch.is_done(steps)
    if not all(bool(torch.isfinite(p).all()) for p in _parameters(optimizer)):
        raise DivergedError(
            f"{schedule.method} diverged at step {len(losses)}: a weight is not finite; nothing was applied, lower lr"
        )
    return Descent(tuple(losses), watch.probability, watch.reason or f"all {steps} steps were taken")


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _update(
    model: HookedModel,
    batch: Minibatch,
    loss_fn: LossFn,
    optimizer: torch.optim.Optimizer,
    *,
    schedule: Schedule,
    where: str,
) -> float:
    """Take one step and return the loss before it."""
    parameters = _parameters(optimizer)
    loss = loss_fn(model, batch)
    if not bool(torch.isfinite(loss)):
        raise DivergedError(
            f"{schedule.method} diverged at {where}: the loss is {loss.item()}; nothing was applied, lower lr"
        )
    if not loss.requires_grad:
        raise VestigeError(f"the loss of {schedule.method} does not depend on any parameter in training")
    # Only these gradients are computed: the model's own parameters keep whatever is in their `.grad`.
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    if schedule.max_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_(parameters, schedule.max_grad_norm)
    optimizer.step()
    return float(loss.detach())


class _Watch:
    """The two numbers that can end a descent early, measured on up to 128 items to forget and 32 to keep."""

    def __init__(
        self, model: HookedModel, forget: Sequence[Item], retain: Sequence[Item], schedule: Schedule, steps: int
    ) -> None:
        if schedule.retain_bound is not None and not retain:
            raise VestigeError(
                f"{schedule.method} with a retain_bound needs retain items with an answer; give load_data(retain=...)"
            )
        generator = torch.Generator().manual_seed(schedule.seed)
        self.model, self.schedule, self.steps = model, schedule, steps
        watched = _sample(forget, _FORGET, generator) if schedule.stop_fraction is not None else []
        # Encoded once, read at every look.
        self.forget = list(encoded(model, watched, batch_size=schedule.batch_size))
        self.retain = list(encoded(model, _sample(retain, _RETAIN, generator), batch_size=schedule.batch_size))
        self.bound = schedule.retain_bound
        self.target: float | None = None
        self.probability: float | None = None
        self.reason = ""

    @torch.no_grad()
    def is_done(self, step: int) -> bool:
        """Measure; return whether enough is forgotten.

        Raises:
            DivergedError: The retain loss is above its bound.
        """
        if self.retain:
            loss = float(_mean_nll(self.model, self.retain).mean())
            if self.bound is None:
                self.bound = loss + 0.5 * log(self.model.d_vocab)
            if not loss <= self.bound:
                raise DivergedError(
                    f"{self.schedule.method} diverged at step {step} of {self.steps}: the retain loss is {loss:.3g} "
                    f"nats per token, above the bound of {self.bound:.3g}; nothing was applied, lower lr or take fewer "
                    "steps"
                )
        if self.schedule.stop_fraction is None:
            return False
        self.probability = float(torch.exp(-_mean_nll(self.model, self.forget)).mean())
        if self.target is None:
            self.target = self.schedule.stop_fraction * self.probability
        if self.probability >= self.target:
            return False
        self.reason = f"after {step} steps the forget probability was {self.probability:.3g}, below {self.target:.3g}"
        return True


def _mean_nll(model: HookedModel, batches: Sequence[TokenBatch]) -> Float[Tensor, " n"]:
    return torch.cat([answer_nll(model.logits(batch), batch.ids, batch.answer).mean for batch in batches])


def _sample(items: Sequence[Item], most: int, generator: torch.Generator) -> list[Item]:
    chosen = torch.randperm(len(items), generator=generator)[:most].tolist()
    return [items[i] for i in sorted(chosen)]


def _minibatches(
    model: HookedModel, forget: Sequence[Item], retain: Sequence[Item], schedule: Schedule
) -> Iterator[Minibatch]:
    # Two generators, so that the order of one split does not depend on the size of the other.
    forgets = _shuffled(len(forget), schedule.batch_size, torch.Generator().manual_seed(2 * schedule.seed))
    retains = _shuffled(len(retain), schedule.batch_size, torch.Generator().manual_seed(2 * schedule.seed + 1))
    for rows in forgets:
        kept = encode(model, [retain[i] for i in next(retains).tolist()]) if retain else None
        yield Minibatch(encode(model, [forget[i] for i in rows.tolist()]), rows, kept)


def _shuffled(n: int, batch_size: int, generator: torch.Generator) -> Iterator[Int[Tensor, " batch"]]:
    """Yield rows of one shuffle after the other, for ever."""
    while True:
        yield from torch.randperm(n, generator=generator).split(batch_size)
