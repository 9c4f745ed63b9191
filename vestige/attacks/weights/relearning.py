"""Relearning: taught some facts again, how soon does a subject recall the others?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Item, UnlearnData, VestigeError
from interventions.evaluating import evaluating
from interventions.training.descent import DivergedError, Minibatch, forget_nll
from interventions.training.losses import cross_entropy
from interventions.training.train import train
from probes import answer_probability
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.gradients.folds import Fold, folds_of
from vestige.attacks.halves import without_facts_of

On = Literal["disjoint", "forget", "retain", "control"]
Through = Literal["raw", "view"]


def relearning(
    target: Target,
    data: UnlearnData,
    *,
    on: On = "disjoint",
    steps: Sequence[int] = (0, 1, 2, 5, 10, 20, 50),
    lrs: Sequence[float] = (1e-4, 1e-3, 1e-2),
    lora: int | None = None,
    max_items: int | None = None,
    items_per_step: int = 16,
    through: Through = "raw",
    batch_size: int = 32,
    seed: int = 0,
) -> Attacked:
    """Train a copy on answers and follow the probability of the forget answers; by default each is asked on a copy that
    was taught other forget facts only. Uses forget answers while it trains (not with `on="retain"` or `"control"`).

    The answer alone is learned (AdamW without decay, fresh moments, no dropout), on the same batches in the same order
    for every subject. Of the learning rates, the one counts whose curve of mean probabilities is highest on average
    over `steps`, and `scores` are those at the highest point of that curve. Both are chosen on the forget items, as an
    attacker with luck would; only the same choice on a never-taught model says what that is worth. `budget["curves"]`
    holds the curve of every rate; `vestige.metrics.relearning` compares curves between subjects.

    Args:
        target: The subject.
        data: Needs two forget facts for `disjoint`, and the split that `on` names.
        on: What is taught. `disjoint`: one half of the forget facts, while the other is asked, and the other way round;
            no fact is in both halves. `forget`: the facts that are asked, which every model learns in the end, so that
            only its speed tells. `retain`: kept facts alone, without those that share an answer or a subject and
            relation with a forget item; what comes back was only suppressed. `control`: unrelated text.
        steps: Updates after which the model is asked; 0 is added.
        lrs: Learning rates, at least three over two decades: one alone can make a broken method look tamper-proof.
            Models of billions of parameters take rates some ten times smaller.
        lora: Rank of a new adapter on every projection, trained instead of the weights.
        max_items: Most items that are taught, drawn by the seed; all when not given.
        items_per_step: Items per update.
        through: `raw` takes the bare weights. Hooks, combiners and gates have nothing to relearn and are stripped;
            `view` leaves them in force while the weights below are trained and asked.
        batch_size: Rows per forward pass while asking.
        seed: Of halves, draw, batches and adapters.

    Raises:
        VestigeError: `on` or `through` is unknown, the split is missing or its items share facts with the forget items,
            an item has no answer, or a setting is out of range.

    Source:
        Deeb, Roger 2024, arXiv:2410.08827 (`disjoint`); Hu et al. 2024, arXiv:2406.13356. A rate at which training
        diverges counts as 0 from there on.
    """
    asked_after = _steps(steps)
    if not lrs:
        raise VestigeError("relearning needs at least one learning rate; three over two decades make a fair attack")
    if through not in get_args(Through):
        raise VestigeError(f"through is 'raw' or 'view', got {through!r}")
    rounds = _rounds(data, on, max_items, seed)
    model = target.raw if through == "raw" else target.view
    schedule = _Schedule(asked_after, items_per_step, lora, batch_size, seed)
    found = torch.stack([_asked(model, data.forget, rounds, lr, schedule) for lr in lrs])
    curves = found.mean(-1)
    best = int(curves.mean(-1).argmax())
    at = int(curves[best].argmax())
    return Attacked(
        tuple(found[best, at].tolist()),
        curve=dict(zip(asked_after, curves[best].tolist(), strict=True)),
        budget={
            "on": on,
            "items": max(len(one.learnt) for one in rounds),
            "steps": asked_after[-1],
            "runs": len(lrs) * len(rounds),
            "lora": lora,
            "lr": lrs[best],
            "curves": {f"{lr:g}": curve for lr, curve in zip(lrs, curves.tolist(), strict=True)},
        },
        note=f"highest after {asked_after[at]} steps at lr {lrs[best]:g}"
        + (", on the bare weights" if through == "raw" else ", through the deployed system"),
    )


@dataclass(frozen=True)
class _Schedule:
    """What all runs have in common; as the arguments of `relearning`."""

    asked_after: tuple[int, ...]
    items_per_step: int
    lora: int | None
    batch_size: int
    seed: int


def _rounds(data: UnlearnData, on: str, max_items: int | None, seed: int) -> list[Fold]:
    if on in ("disjoint", "forget"):
        rounds = list(folds_of(data, "half" if on == "disjoint" else "same", most=0, seed=seed, attack="relearning"))
    elif on in get_args(On):
        split: tuple[Item, ...] = getattr(data, on)
        taught = without_facts_of([item for item in split if not item.generation_only], data.forget)
        if not taught:
            raise VestigeError(
                f"relearning with on={on!r} needs {on} items with an answer that share no fact with the forget items, "
                f"and none of {len(split)} is one; give them to load_data({on}=...)"
            )
        rounds = [Fold(tuple(taught), tuple(range(len(data.forget))))]
    else:
        raise VestigeError(f"on is one of {', '.join(get_args(On))}, got {on!r}")
    if max_items is None:
        return rounds
    if max_items < 1:
        raise VestigeError(f"max_items is at least 1, got {max_items}")
    drawn = torch.Generator().manual_seed(seed)
    return [replace(one, learnt=_drawn(one.learnt, max_items, drawn)) for one in rounds]


def _drawn(items: Sequence[Item], most: int, generator: torch.Generator) -> tuple[Item, ...]:
    rows = torch.randperm(len(items), generator=generator)[:most].tolist()
    return tuple(items[row] for row in sorted(rows))


def _steps(steps: Sequence[int]) -> tuple[int, ...]:
    kept = tuple(sorted({0, *steps}))
    if len(kept) < 2 or kept[0] < 0:
        raise VestigeError(f"steps are numbers of updates, one of them at least 1, got {tuple(steps)}")
    return kept


def _asked(
    model: HookedModel, forget: Sequence[Item], rounds: Sequence[Fold], lr: float, schedule: _Schedule
) -> Float[Tensor, "n_steps n_forget"]:
    """Return the probability of every answer after each number of steps at one rate."""
    found = torch.zeros(len(schedule.asked_after), len(forget), dtype=torch.float64)

    def ask(held: list[int], step: int, current: HookedModel) -> None:
        if step in schedule.asked_after:
            scores = answer_probability(current, [forget[row] for row in held], batch_size=schedule.batch_size)
            # Weights that left the numbers know nothing.
            found[schedule.asked_after.index(step), held] = scores.nan_to_num(0.0)

    for one in rounds:
        held = list(one.scored)
        with evaluating(model):
            ask(held, 0, model)
        try:
            train(
                model,
                UnlearnData(one.learnt),
                _answers,
                method="relearning",
                lr=lr,
                steps=schedule.asked_after[-1],
                batch_size=schedule.items_per_step,
                seed=schedule.seed,
                lora=schedule.lora,
                progress=False,
                after_step=partial(ask, held),
            )
        except DivergedError:
            continue
    return found


def _answers(model: HookedModel, batch: Minibatch) -> Tensor:
    return cross_entropy(forget_nll(model, batch))
