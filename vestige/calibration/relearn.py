"""A little training on the facts: what somebody does to a model that was made to forget."""

from __future__ import annotations

from hooked import HookedModel, UnlearnData
from interventions.training.descent import forget_nll
from interventions.training.losses import cross_entropy
from interventions.training.train import train
from vestige.calibration.baked import baked


def relearned(model: HookedModel, data: UnlearnData, *, epochs: int, seed: int) -> HookedModel:
    """Return a copy that was trained on the forget items for some passes."""
    learnt = train(
        model,
        data,
        lambda current, batch: cross_entropy(forget_nll(current, batch)),
        method="relearning",
        lr=1e-3,
        epochs=epochs,
        batch_size=4,
        stop_fraction=None,
        seed=seed,
        progress=False,
    )
    return baked(model, learnt.patch)
