"""Task vectors: learn the forget answers by heart, then walk the other way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from math import inf
from typing import Unpack

from torch import Tensor

from hooked import HookedModel, Intervention, LowRankDelta, Spec, UnlearnData, VestigeError, WeightPatch
from hooked.weights import Delta, parameters_of, shared_names, values_of
from interventions.training.descent import Minibatch, forget_nll
from interventions.training.losses import Reduction, cross_entropy
from interventions.training.train import Training, learned


def task_vector(
    model: HookedModel,
    data: UnlearnData,
    *,
    alpha: float = 1.0,
    exclude: Sequence[str] = (),
    reduction: Reduction = "mean",
    **training: Unpack[Training],
) -> Intervention:
    """Fine-tune a copy on the forget answers and return `-alpha (fine-tuned - original)`.

    Nothing is descended but `CE(forget)`: what a larger alpha costs elsewhere is not seen in training. Sweep it.

    Args:
        model: Not changed.
        data: Needs `forget` items with an answer. Retain items are not looked at.
        alpha: How far, at least 0; 0 changes nothing. Published 1, and 5 in a benchmark's scripts.
        exclude: Parameters that keep their values although they are trained, as patterns of Hugging Face names, e.g.
            `("*norm*", "*embed*")`. A tied parameter is excluded under any of its names. All others are in the vector,
            gains of norms and embeddings included; the settings name both kinds.
        reduction: `mean` weighs answers equally, `token` weighs tokens equally.
        training: Settings of `train`, of the fine-tuning.

    Raises:
        VestigeError: The fine-tuned model equals the original, so that there is no direction; a pattern of `exclude`
            fits no parameter; or as `train`.

    Source:
        Ilharco et al. 2023, *Editing Models with Task Arithmetic*, arXiv:2212.04089, section 3. The vector starts from
        the model that is to forget, as in MUSE, since what it was trained from is seldom at hand. A tied parameter is
        moved once, and buffers never.
    """
    if not 0 <= alpha < inf:
        raise VestigeError(f"alpha is a finite number of at least 0, got {alpha}")
    for name in ("stop_fraction", "retain_bound"):
        if training.get(name) is not None:
            raise VestigeError(f"task_vector learns the forget answers, so {name} cannot stop it; sweep alpha instead")
    left_out = _matching(model, exclude)
    spec = Spec(
        "task_vector",
        "removal",
        ("forget",),
        "Ilharco et al. 2023, arXiv:2212.04089",
        {"alpha": alpha, "exclude": tuple(exclude), "reduction": reduction},
    )

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        return cross_entropy(forget_nll(current, batch), reduction=reduction)

    # With retain items, train would watch them and call it divergence that memorising costs them something.
    alone = replace(data, retain=())
    tuned = learned(model, alone, loss, spec, training, defaults=_DEFAULTS)
    trained = {} if tuned.weights is None else tuned.weights.deltas
    vector = {name: delta for name, delta in trained.items() if name not in left_out}
    if not any(bool(values_of(delta).any()) for delta in vector.values()):
        what = "outside exclude= " if left_out else ""
        raise VestigeError(
            f"the task vector is zero: fine-tuning changed no parameter {what}; take more steps or a higher lr"
        )
    settings = {**tuned.spec.settings, "subtracted": list(vector), "excluded": sorted(left_out & trained.keys())}
    return Intervention(replace(tuned.spec, settings=settings), weights=scaled(vector, -alpha))


_DEFAULTS: Training = {"epochs": 10.0}


def scaled(vector: Mapping[str, Delta], factor: float) -> WeightPatch:
    """Return the patch that adds a multiple of weight deltas; factor 0 gives an empty one."""
    if factor == 0:
        return WeightPatch()
    return WeightPatch({name: _times(delta, factor) for name, delta in vector.items()}, tied=True)


def _times(delta: Delta, factor: float) -> Delta:
    if isinstance(delta, LowRankDelta):
        return replace(delta, left=factor * delta.left)
    return replace(delta, values=factor * delta.values)


def _matching(model: HookedModel, patterns: Sequence[str]) -> set[str]:
    """Return every name of the parameters that some pattern fits."""
    if isinstance(patterns, str):
        raise VestigeError(f"exclude is a list of patterns, got the text {patterns!r}; write [{patterns!r}]")
    names = tuple(parameters_of(model.model))
    found: set[str] = set()
    for pattern in patterns:
        fitting = [name for name in names if fnmatchcase(name, pattern)]
        if not fitting:
            raise VestigeError(f"exclude={pattern!r} fits no parameter; one is '{names[0]}', and * stands for any text")
        found.update(alias for name in fitting for alias in (name, *shared_names(model.model, name)))
    return found
