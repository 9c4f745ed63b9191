"""Neuron Adjust: where a pre-activation looks like forget text, move it to where retain text would put it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import Edit, HookContext, HookedModel, Intervention, RunningMoments, Spec, UnlearnData, VestigeError
from hooked.sites import SiteLike
from interventions.batches import split_of

from .neurons import by_layer, count_of, highest, neuron_moments, refuse_experts

Mode = Literal["deterministic", "mean", "sample"]
Score = Literal["signed", "abs", "cohen_d"]

_SIGMA_FLOOR = 1e-6


@dataclass(frozen=True)
class AdjustNeurons:
    """Edit of `mlp.hook_pre`: maps some neurons from their distribution on forget text to that on retain text.

    Args:
        neurons: Which neurons.
        mu_forget: Mean on forget text, per chosen neuron.
        sigma_forget: Standard deviation on forget text.
        mu_retain: Mean on retain text.
        sigma_retain: Standard deviation on retain text.
        mode: As in `neuron_adjust`.
        seed: Of the coins of mode `sample`.
    """

    neurons: Int[Tensor, " neurons"]
    mu_forget: Float[Tensor, " neurons"]
    sigma_forget: Float[Tensor, " neurons"]
    mu_retain: Float[Tensor, " neurons"]
    sigma_retain: Float[Tensor, " neurons"]
    mode: Mode
    seed: int

    def __call__(self, activation: Float[Tensor, "batch pos d_mlp"], /, hook: HookContext) -> Tensor:
        index = self.neurons.to(activation.device)
        wide = activation[..., index].to(torch.promote_types(activation.dtype, torch.float32))
        uniform = self._coins(wide, hook) if self.mode == "sample" else None
        result = activation.clone()
        result[..., index] = self.adjusted(wide, uniform=uniform).to(activation.dtype)
        return result

    def adjusted(
        self, acts: Float[Tensor, "*batch neurons"], *, uniform: Float[Tensor, "*batch neurons"] | None = None
    ) -> Float[Tensor, "*batch neurons"]:
        """Map the chosen neurons' pre-activations; those that look more like retain text pass through bit by bit.

        Args:
            acts: Pre-activations.
            uniform: One draw from [0, 1) per element; mode `sample` needs it.
        """
        mu_f, sigma_f = self.mu_forget.to(acts), self.sigma_forget.to(acts)
        mu_r, sigma_r = self.mu_retain.to(acts), self.sigma_retain.to(acts)
        # Positive where the forget density is the higher one. Ratios of densities underflow a few sigmas out.
        evidence = _log_normal(acts, mu_f, sigma_f) - _log_normal(acts, mu_r, sigma_r)
        like_forget = evidence >= 0
        mapped = mu_r - (sigma_r / sigma_f) * (acts - mu_f)
        if self.mode == "mean":
            share = torch.sigmoid(evidence)
            mapped = share * mapped + (1 - share) * acts
        if uniform is not None:
            like_forget = like_forget & (uniform >= torch.sigmoid(-evidence))
        return torch.where(like_forget, mapped, acts)

    def _coins(self, acts: Tensor, hook: HookContext) -> Tensor:
        state: dict[Any, Any] = hook.ctx if hook.request is None else hook.request.state
        key = ("neuron_adjust", hook.name, self.seed)
        if key not in state:
            # One stream per block, or all blocks would toss the same coins.
            state[key] = torch.Generator().manual_seed(self.seed * 1_000_003 + hook.layer())
        if hook.request is not None and hook.request.offset > 0 and not state.get("neuron_adjust warned"):
            state["neuron_adjust warned"] = True
            warnings.warn(
                "neuron_adjust with mode='sample' draws new coins at every decoding step, so cached and uncached "
                "decoding differ; mode='deterministic' or 'mean' is repeatable",
                UserWarning,
                stacklevel=2,
            )
        return torch.rand(acts.shape, generator=state[key], dtype=acts.dtype).to(acts.device)


def neuron_adjust(
    model: HookedModel,
    data: UnlearnData,
    *,
    top: float = 0.03,
    mode: Mode = "deterministic",
    score: Score = "signed",
    seed: int = 0,
    batch_size: int = 32,
) -> Intervention:
    """Shift the neurons that respond most to forget text towards their distribution on retain text.

    Each chosen pre-activation `h` at which the normal density fitted on forget text is at least that fitted on retain
    text (`f(h) >= r(h)`) becomes `mu_r - (sigma_r / sigma_f)(h - mu_f)`. This sends N(mu_f, sigma_f) to N(mu_r,
    sigma_r), reflected; because of the gate the resulting activations are a mixture of both.

    Args:
        model: Any model with dense MLPs; not changed.
        data: Needs `forget` and `retain`, about 200 items each for stable deviations.
        top: Fraction of all neurons of all blocks together that is adjusted, in (0, 1]; published 0.005, 0.015, 0.03.
        mode: `deterministic` adjusts wherever `f >= r`; `mean` replaces `h` by its expectation under the published
            coin; `sample` is the published form, which adjusts with probability `f / (r + f)`, one coin per element.
            `sample` is neither repeatable nor safe with a KV cache, and decoding with it warns.
        score: What is ranked: `signed` the difference of means `mu_f - mu_r` (published), `abs` its absolute value,
            `cohen_d` the difference in units of the pooled deviation, which does not favour blocks with large
            activations.
        seed: Of the coins of mode `sample`.
        batch_size: Items per forward pass while fitting.

    Raises:
        VestigeError: A split is missing, a setting is unknown, or the model is a mixture of experts.

    Source:
        Li, Sun, Weng 2025, arXiv:2503.21730. Its release sets the forget deviation to the forget mean, stores variances
        as deviations, tosses one coin for a whole tensor, and divides sums over last tokens by all tokens; here the
        statistics are those of the paper's text, over all real tokens, so published numbers describe something else.
        Deviations are at least 1e-6 of the block's root mean square pre-activation.
    """
    refuse_experts(model, method="neuron_adjust")
    if mode not in get_args(Mode):
        raise VestigeError(f"mode is one of {', '.join(get_args(Mode))}, got {mode!r}")
    forget = neuron_moments(
        model, split_of(data, "forget", method="neuron_adjust"), kind="mlp_pre", batch_size=batch_size
    )
    retain = neuron_moments(
        model, split_of(data, "retain", method="neuron_adjust"), kind="mlp_pre", batch_size=batch_size
    )
    sigmas = [_sigmas(f, r) for f, r in zip(forget, retain, strict=True)]
    scores = torch.cat([_score(f, r, s, score) for f, r, s in zip(forget, retain, sigmas, strict=True)])
    count = count_of(len(scores), top)
    chosen = by_layer(highest(scores, count), [len(f.mean) for f in forget])
    edits: dict[SiteLike, Edit] = {
        model.site_map.resolve(("mlp_pre", layer)): AdjustNeurons(
            neurons=neurons,
            mu_forget=forget[layer].mean[neurons],
            sigma_forget=sigmas[layer][0][neurons],
            mu_retain=retain[layer].mean[neurons],
            sigma_retain=sigmas[layer][1][neurons],
            mode=mode,
            seed=seed,
        )
        for layer, neurons in chosen.items()
    }
    settings = {"top": top, "mode": mode, "score": score, "seed": seed, "neurons": count}
    spec = Spec("neuron_adjust", "suppression", ("forget", "retain"), "Li, Sun, Weng 2025, arXiv:2503.21730", settings)
    return Intervention(spec, edits=edits)


def _sigmas(forget: RunningMoments, retain: RunningMoments) -> tuple[Tensor, Tensor]:
    """Sample deviations of both sets, kept off zero so that densities and the map stay finite."""
    power = (forget.mean.square() + forget.variance + retain.mean.square() + retain.variance).mean() / 2
    smallest = _SIGMA_FLOOR * (float(power.sqrt()) or 1.0)
    return forget.std.clamp(min=smallest), retain.std.clamp(min=smallest)


def _score(forget: RunningMoments, retain: RunningMoments, sigmas: tuple[Tensor, Tensor], score: Score) -> Tensor:
    difference = forget.mean - retain.mean
    if score == "signed":
        return difference
    if score == "abs":
        return difference.abs()
    if score == "cohen_d":
        return difference / ((sigmas[0].square() + sigmas[1].square()) / 2).sqrt()
    raise VestigeError(f"score is one of {', '.join(get_args(Score))}, got {score!r}")


def _log_normal(acts: Tensor, mu: Tensor, sigma: Tensor) -> Tensor:
    """Log-density of a normal distribution without its constant."""
    return -0.5 * ((acts - mu) / sigma).square() - sigma.log()
