"""Needle: break single value vectors by noise, then push them further; every other weight stays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData, VestigeError
from interventions.training.descent import LossFn, Minibatch, Schedule, descend, forget_nll
from interventions.training.gradient_ascent import gradient_ascent_loss
from interventions.training.train import Trained

from .ablate import Neuron, VectorLike, gaussians, neurons_of, stacked, value_edits, wide


def needle_tune(
    model: HookedModel,
    data: UnlearnData,
    vectors: Sequence[VectorLike],
    *,
    scale: float = 3.0,
    loss_fn: LossFn | None = None,
    lr: float = 0.1,
    epochs: float = 1.0,
    steps: int | None = None,
    batch_size: int = 32,
    max_grad_norm: float | None = 1.0,
    stop_fraction: float | None = None,
    retain_bound: float | None = None,
    check_every: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Intervention:
    """Add noise to value vectors as `ablate_vectors` does, then train nothing but them by plain gradient steps.

    Each vector is a parameter of its own, spliced into the forward pass, so no optimizer ever sees the rest of its
    matrix: there is no weight decay or momentum that could move it, and no copy of the model is made.

    Args:
        model: Not changed.
        data: Needs `forget` items with an answer.
        vectors: `(layer, neuron)` pairs or objects with `.layer` and `.neuron`.
        scale: Size of the noise relative to each vector, as in `ablate_vectors`.
        loss_fn: What is descended; `-CE(forget)`, gradient ascent, when not given.
        lr: Step size of SGD (published 0.1 to 0.5).
        epochs: Passes over the forget items (published 1).
        steps: Number of updates, instead of `epochs`.
        batch_size: Forget items per step (published 4, accumulated over 8 steps).
        max_grad_norm: Gradients of a larger norm are scaled down to it; None leaves them.
        stop_fraction: Stop once the mean probability of the forget answers is below this fraction of what it was at the
            start; None runs all steps.
        retain_bound: Retain loss in nats per token at which to give up; when not given, `log(d_vocab) / 2` above start.
        check_every: Steps between two looks at `stop_fraction` and `retain_bound`; once per epoch when not given.
        seed: Of the noise and the shuffle.
        progress: Show a bar, if the output is a terminal.

    Raises:
        VestigeError: No vector, no forget item with an answer, or training diverged.

    Source:
        Hong et al. 2024, arXiv:2406.11614. Its release masks gradients instead, so that weight decay shrinks all other
        rows of the matrix.
    """
    neurons = neurons_of(model, vectors)
    if not 0 < lr < float("inf"):
        raise VestigeError(f"lr is a finite number above 0, got {lr}")
    old = {(layer, neuron): wide(model.value_vectors(layer)[neuron]) for layer, neuron in neurons}
    noise = gaussians(old.values(), scale=scale, seed=seed)
    changes = {n: c.requires_grad_() for n, c in stacked(dict(zip(neurons, noise, strict=True))).items()}
    schedule = Schedule(
        method="needle_tune",
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
    spliced = Intervention(Spec("needle_tune", "removal"), edits=value_edits(model, neurons, changes))
    with spliced.applied(model) as view:
        descent = descend(view, data, loss_fn or _ascent, torch.optim.SGD(list(changes.values()), lr=lr), schedule)
    rows = {(layer, neuron): row for layer, change in changes.items() for neuron, row in _rows(neurons, layer, change)}
    patch = model.value_patch({n: vector + rows[n] for n, vector in old.items()})
    settings: dict[str, Any] = {
        "vectors": tuple(neurons),
        "scale": scale,
        "lr": lr,
        "batch_size": batch_size,
        "seed": seed,
    }
    settings |= Trained(patch, descent, sum(change.numel() for change in changes.values())).summary
    spec = Spec("needle_tune", "removal", ("forget", "vectors"), "Hong et al. 2024, arXiv:2406.11614", settings)
    return Intervention(spec, weights=patch)


def _rows(neurons: Sequence[Neuron], layer: int, change: Tensor) -> Iterator[tuple[int, Tensor]]:
    return zip((neuron for at, neuron in neurons if at == layer), change.detach(), strict=True)


def _ascent(model: HookedModel, batch: Minibatch) -> Tensor:
    return gradient_ascent_loss(forget_nll(model, batch))
