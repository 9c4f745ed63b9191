"""Models made to forget by published methods, and two that never knew, before and after somebody tampers with them:
what robustness is measured on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hooked import HookedModel, Intervention
from interventions.training import distilled_removal, gradient_difference, npo, rmu, simnpo, undial, wga
from vestige.attacks.weights.quantisation import Kind, quantised
from vestige.calibration.baked import baked
from vestige.calibration.pool import Task
from vestige.calibration.relearn import relearned

METHODS: Mapping[str, tuple[Callable[..., Intervention], Mapping[str, Any]]] = {
    "npo": (npo, {"lr": 1e-3, "epochs": 10}),
    "simnpo": (simnpo, {"lr": 1e-3, "epochs": 10}),
    "gradient_difference": (gradient_difference, {"lr": 3e-4, "epochs": 10}),
    "undial": (undial, {"lr": 1e-3, "epochs": 10}),
    "wga": (wga, {"lr": 1e-3, "epochs": 10}),
    "rmu": (rmu, {"lr": 1e-3, "epochs": 10}),
    "distilled_removal": (distilled_removal, {}),
}
QUANTISED: Kind = "nf4"
# Leaves a model its other abilities.
RATE = 5e-4


@dataclass(frozen=True, eq=False)
class Tampered:
    """A model in three states.

    Args:
        name: Of the method, or `retrained` or `never`.
        before: As the method left it.
        relearned: After a little training on the facts.
        quantised: With its weights rounded.
    """

    name: str
    before: HookedModel
    relearned: HookedModel
    quantised: HookedModel


def tampered(task: Task, *, seed: int = 0) -> Iterator[Tampered]:
    """Make the retrained model, the one that was taught another concept and that of every method, each in its states.

    Args:
        task: From `make_task`.
        seed: Of the methods and of relearning.
    """
    yield _states("retrained", task.retrained, task, seed)
    yield _states("never", task.never, task, seed)
    for name, (method, settings) in METHODS.items():
        made = method(task.original, task.given, seed=seed, progress=False, **settings)
        yield _states(name, baked(task.original, made.weights), task, seed)


def _states(name: str, model: HookedModel, task: Task, seed: int) -> Tampered:
    return Tampered(
        name,
        model,
        # One pass over the facts, as published.
        relearned(model, task.given, epochs=1, keep=False, lr=RATE, seed=seed),
        baked(model, quantised(model, QUANTISED).weights),
    )
