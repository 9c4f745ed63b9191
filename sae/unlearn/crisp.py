"""CRISP: adapters that keep the latents of a concept from firing, so that nothing has to be hooked afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from hooked import HookedModel, Intervention, Spec, VestigeError
from hooked.adapter import adapted, adapter_patch
from hooked.sites import layer_of
from sae.coder import Coder
from sae.group import GroupStatistics
from sae.items import ItemLatents, read_items
from sae.read import read_coder
from sae.search.scores import crisp_rule
from sae.stream import site_on
from sae.unlearn.crisp_descent import Pushed, Weights, descend
from sae.unlearn.top import top_latents


def crisp(
    model: HookedModel,
    saes: Any,
    forget: Sequence[str],
    retain: Sequence[str],
    *,
    coherence: Sequence[str] | None = None,
    k: int = 10,
    ratio: float = 3.0,
    layers: Sequence[int] | None = None,
    rank: int = 4,
    scale: float = 2.0,
    margin: float = 5.0,
    retain_weight: float = 0.99,
    coherence_weight: float = 0.01,
    lr: float = 1e-4,
    steps: int = 200,
    batch_size: int = 4,
    context_size: int = 256,
    seed: int = 0,
    progress: bool = True,
) -> Intervention:
    """Train low-rank weight deltas under which the latents of a concept stay silent and everything else stays put.

    Args:
        model: Not changed.
        saes: An SAE or a list of them, of the residual stream.
        forget: Texts about the concept.
        retain: Texts about anything else, on which the stream at the SAEs' sites is to stay.
        coherence: Texts on which the last block's output is to stay; those of `retain` when None.
        k: Latents per SAE: those of the largest excess of the firing rate on `forget`.
        ratio: Of these, only latents whose mean activation on `forget` is so many times that on `retain`.
        layers: Blocks that get adapters; all up to the last SAE's when None. Published: 3 to 9, whatever the SAE.
        rank: Of an adapter; published: 4.
        scale: Factor on what an adapter adds; published: 2.
        margin: How far below threshold, in units of a token's mean pre-activation; published: 5.
        retain_weight: Published: 0.99.
        coherence_weight: Relative to `retain_weight`; published: 0.01.
        lr: Of AdamW with amsgrad; published: 1e-5.
        steps: Updates.
        batch_size: Texts of each kind per step.
        context_size: Tokens of a text that are read.
        seed: Of initial weights and shuffles.
        progress: Show a bar, if the output is a terminal.

    Raises:
        VestigeError: A split is empty, no latent prefers the forget texts, an SAE has no pre-activations, two are at
            one site, a layer does not exist, or the loss is not finite (nothing is returned then).

    Source:
        Ashuach et al. 2025, arXiv:2508.13650. Counts and sums are divided by tokens here, sites of statistics and of
        the loss are the same, and there is no dropout.
    """
    _check(forget=forget, retain=retain, k=k, lr=lr, steps=steps, batch_size=batch_size)
    coders = [read_coder(sae) for sae in (saes if isinstance(saes, list | tuple) else [saes])]
    if not coders:
        raise VestigeError("crisp needs at least one SAE")
    sites = [site_on(model, coder) for coder in coders]
    twice = next((site for site in sites if sites.count(site) > 1), None)
    if twice is not None:
        raise VestigeError(f"two SAEs are at '{twice}'; crisp pushes the latents of one SAE per site")
    chosen = None if layers is None else _blocks(model, layers)
    pushed = {
        site: _select(model, coder, forget, retain, k=k, ratio=ratio) for site, coder in zip(sites, coders, strict=True)
    }
    blocks = list(range(_last_block(pushed) + 1)) if chosen is None else chosen
    student, parameters = adapted(model, layers=blocks, rank=rank, scale=scale, seed=seed)
    weights = Weights(retain_weight, coherence_weight, margin)
    losses = descend(
        model,
        student,
        parameters,
        pushed,
        (forget, retain, retain if coherence is None else coherence),
        weights=weights,
        lr=lr,
        steps=steps,
        batch_size=batch_size,
        context_size=context_size,
        seed=seed,
        progress=progress,
    )
    settings = {
        "sites": {site: {"sae_sha256": one.coder.sha256, "latents": list(one.latents)} for site, one in pushed.items()},
        "k": k,
        "ratio": ratio,
        "layers": blocks,
        "rank": rank,
        "scale": scale,
        "margin": margin,
        "retain_weight": retain_weight,
        "coherence_weight": coherence_weight,
        "lr": lr,
        "steps": steps,
        "batch_size": batch_size,
        "seed": seed,
        "first_feature_loss": losses[0] if losses else None,
        "last_feature_loss": losses[-1] if losses else None,
    }
    spec = Spec("crisp", "removal", ("forget", "retain"), "Ashuach et al. 2025, arXiv:2508.13650", settings)
    return Intervention(spec, weights=adapter_patch(student))


def salient_latents(forget: GroupStatistics, retain: GroupStatistics, *, k: int, ratio: float) -> list[int]:
    """Return the k latents that CRISP pushes down.

    They are the first k by `sae.search.crisp_rule` over the 10 k of the largest excess of the firing rate on forget
    tokens.

    Raises:
        VestigeError: None is left.
    """
    score = crisp_rule(forget, retain, candidates=10 * k, ratio=ratio)
    if not (score > 0).any():
        more = min(10 * k, int((forget.rate > retain.rate).sum()))
        raise VestigeError(
            f"no latent is {ratio} times as active on the forget texts, of {more} that fire more often "
            "there; lower ratio, or take an SAE of another site"
        )
    return top_latents(score, k)


def _select(
    model: HookedModel, coder: Coder, forget: Sequence[str], retain: Sequence[str], *, k: int, ratio: float
) -> Pushed:
    if coder.pursuit is not None or coder.is_transcoder:
        what = "a transcoder" if coder.is_transcoder else "matching pursuit"
        raise VestigeError(f"crisp needs an SAE with one pre-activation per latent, got {what}: {coder!r}")
    on = read_items(model, coder, forget)
    off: ItemLatents = read_items(model, coder, retain, rule=on.rule)
    statistics = GroupStatistics.each(coder, on, off)
    return Pushed(coder, tuple(salient_latents(*statistics, k=k, ratio=ratio)), on.rule)


def _last_block(pushed: Mapping[str, Pushed]) -> int:
    return max(layer_of(site) or 0 for site in pushed)


def _blocks(model: HookedModel, layers: Sequence[int]) -> list[int]:
    wrong = next((layer for layer in layers if not -model.n_layers <= layer < model.n_layers), None)
    if wrong is not None:
        raise VestigeError(f"no layer {wrong} in {model.name}, it has {model.n_layers}")
    return list(dict.fromkeys(layer % model.n_layers for layer in layers))


def _check(*, forget: Sequence[str], retain: Sequence[str], k: int, lr: float, steps: int, batch_size: int) -> None:
    for name, texts in (("forget", forget), ("retain", retain)):
        if isinstance(texts, str) or not len(texts):
            raise VestigeError(f"crisp needs {name} texts, a list of them, got {texts!r}")
    if type(k) is not int or k < 1:
        raise VestigeError(f"k is how many latents are pushed down per SAE, at least 1, got {k!r}")
    if not 0 < lr < inf:
        raise VestigeError(f"lr is a finite number above 0, got {lr}")
    if steps < 0 or batch_size < 1:
        raise VestigeError(f"steps is at least 0 and batch_size at least 1, got {steps} and {batch_size}")
