"""A little training on the facts: what somebody does to a model that was made to forget."""

from __future__ import annotations

from math import inf

from torch import Tensor

from hooked import HookedModel, UnlearnData
from interventions.training.descent import Minibatch, forget_nll, retain_nll
from interventions.training.losses import cross_entropy
from interventions.training.train import train
from vestige.calibration.baked import baked


def relearned(
    model: HookedModel, data: UnlearnData, *, epochs: int, keep: bool, seed: int, lr: float = 1e-3
) -> HookedModel:
    """Return a copy that was trained on the forget items for some passes.

    Args:
        model: Stays as it is.
        data: What is trained on.
        epochs: Passes over the forget items.
        keep: Train on as many retain items beside, so that the model loses nothing else.
        seed: Of the order.
        lr: Learning rate.
    """

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        learnt = cross_entropy(forget_nll(current, batch))
        return learnt + cross_entropy(retain_nll(current, batch)) if keep else learnt

    found = train(
        model,
        data,
        loss,
        method="relearning",
        lr=lr,
        epochs=epochs,
        batch_size=4,
        stop_fraction=None,
        # Whoever tampers does not mind what else is lost.
        retain_bound=inf,
        seed=seed,
        progress=False,
    )
    return baked(model, found.patch)
