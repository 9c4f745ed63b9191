"""Gradient difference: make the forget answers unlikely and keep the retain answers likely."""

from __future__ import annotations

from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData

from .batches import split_of
from .descent import Minibatch, forget_nll, retain_nll
from .losses import Reduction, gradient_difference_loss
from .train import Chooser, train


def gradient_difference(
    model: HookedModel,
    data: UnlearnData,
    *,
    gamma: float = 1.0,
    alpha: float = 1.0,
    lr: float = 1e-4,
    epochs: float = 10.0,
    steps: int | None = None,
    batch_size: int = 16,
    weight_decay: float = 0.0,
    max_grad_norm: float | None = 1.0,
    stop_fraction: float | None = 0.05,
    retain_bound: float | None = None,
    check_every: int | None = None,
    reduction: Reduction = "mean",
    parameters: Chooser | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Intervention:
    """Descend `-gamma CE(forget) + alpha CE(retain)`, with retain batches shuffled independently of the forget ones.

    Unbounded below like `gradient_ascent`, so it stops in the same way. Settings not listed are those of `train`.

    Args:
        model: Not changed.
        data: Needs `forget` and `retain` items with an answer.
        gamma: Weight of forgetting.
        alpha: Weight of retaining.
        lr: 1e-4 suits models of some million parameters; 1e-5 those of billions.
        stop_fraction: Stop once the mean probability of the forget answers is below this fraction of the original's;
            None runs all steps.
        retain_bound: Retain loss in nats per token at which to give up; when not given, `log(d_vocab) / 2` above start.
        reduction: `mean` weighs answers equally, `token` (the release) weighs tokens equally.

    Raises:
        VestigeError: A split has no item with an answer, or training diverged.

    Source:
        Maini et al. 2024, *TOFU*, arXiv:2401.06121.
    """
    split_of(data, "retain", method="gradient_difference", answered=True)

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        return gradient_difference_loss(
            forget_nll(current, batch), retain_nll(current, batch), gamma=gamma, alpha=alpha, reduction=reduction
        )

    trained = train(
        model,
        data,
        loss,
        method="gradient_difference",
        lr=lr,
        epochs=epochs,
        steps=steps,
        batch_size=batch_size,
        weight_decay=weight_decay,
        max_grad_norm=max_grad_norm,
        seed=seed,
        parameters=parameters,
        stop_fraction=stop_fraction,
        retain_bound=retain_bound,
        check_every=check_every,
        progress=progress,
    )
    settings = {
        "gamma": gamma,
        "alpha": alpha,
        "lr": lr,
        "batch_size": batch_size,
        "stop_fraction": stop_fraction,
        "seed": seed,
    }
    spec = Spec(
        "gradient_difference",
        "removal",
        ("forget", "retain"),
        "Maini et al. 2024, arXiv:2401.06121",
        settings | trained.summary,
    )
    return Intervention(spec, weights=trained.patch)
