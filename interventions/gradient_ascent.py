"""Gradient ascent: make the forget answers unlikely, and nothing else."""

from __future__ import annotations

from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData

from .descent import Minibatch, forget_nll
from .losses import Reduction, gradient_ascent_loss
from .train import Chooser, train


def gradient_ascent(
    model: HookedModel,
    data: UnlearnData,
    *,
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
    """Ascend the cross-entropy of the forget answers.

    The loss has no lower bound: once the answers are gone, it only ruins the model. So training stops when their mean
    probability is below `stop_fraction` of what it was. Settings not listed are those of `train`.

    Args:
        model: Not changed.
        data: Needs `forget` items with an answer. Retain items are only watched (`retain_bound`).
        lr: 1e-4 suits models of some million parameters; 1e-5 those of billions.
        stop_fraction: Stop once the mean length-normalised probability of the forget answers, looked at every
            `check_every` steps, is below this fraction of the original's; None runs all steps.
        retain_bound: Retain loss in nats per token at which to give up; when not given, `log(d_vocab) / 2` above start.
        reduction: `mean` weighs answers equally, `token` weighs tokens equally.

    Raises:
        VestigeError: No forget item has an answer, or training diverged.

    Source:
        The first term of Yao, Xu, Liu, arXiv:2310.10683; the baseline of most benchmarks.
    """

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        return gradient_ascent_loss(forget_nll(current, batch), reduction=reduction)

    trained = train(
        model,
        data,
        loss,
        method="gradient_ascent",
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
        "lr": lr,
        "batch_size": batch_size,
        "weight_decay": weight_decay,
        "stop_fraction": stop_fraction,
        "seed": seed,
    }
    spec = Spec(
        "gradient_ascent", "removal", ("forget",), "Yao, Xu, Liu 2023, arXiv:2310.10683", settings | trained.summary
    )
    return Intervention(spec, weights=trained.patch)
