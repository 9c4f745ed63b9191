"""Activations together with gradients: equal to autograd on the native model, and refused where there are none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hooked import HookedModel, VestigeError
from tests.numerics import FLOAT32, error
from tests.tiny import shared_model, tiny_model


def metric(logits: Tensor) -> Tensor:
    return logits[:, -1].logsumexp(-1).sum() + logits[:, 2, 5].sum()


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_gradients_equal_autograd_on_the_native_modules(family: str, ids: Tensor) -> None:
    """C8."""
    model = shared_model(family)
    sites = ["resid_pre.1", "resid_post.1", "mlp_post.0", "mlp_pre.2", "attn_out.0"]
    live: dict[str, Tensor] = {}

    def hold(name: str) -> Any:
        def hook(activation: Tensor, hook: Any) -> None:
            activation.retain_grad()
            live[name] = activation

        return hook

    with torch.enable_grad():
        value = metric(model.run_with_hooks(ids, fwd_hooks=[(s, hold(s)) for s in sites]))
        wanted = dict(zip(sites, torch.autograd.grad(value, [live[s] for s in sites]), strict=True))
        got, acts, grads = model.gradients(ids, metric, names_filter=sites)
    assert torch.equal(got, value.detach())
    assert not got.requires_grad
    for site in sites:
        assert torch.equal(acts[site], live[site].detach())
        assert error(grads[site], wanted[site]) < FLOAT32
        assert not grads[site].requires_grad


@pytest.mark.parametrize("family", ["llama", "gpt2", "olmo2", "opt"])
@pytest.mark.parametrize("frozen", [False, True])
def test_a_gradient_predicts_what_a_small_edit_does(
    family: str, frozen: bool, rng: torch.Generator, ids: Tensor
) -> None:
    """C8, at every kind of site, the middle of the stream included; also where no parameter needs a gradient."""
    model = tiny_model(family, dtype=torch.float64)
    model.model.requires_grad_(not frozen)
    sites = [s for s in model.sites if s.startswith("blocks.1.")]
    for site in sites:
        with torch.enable_grad():
            _, acts, grads = model.gradients(ids, metric, names_filter=site)
        # Some norms compute in float32 whatever the model's dtype, hence the wide step.
        step = 1e-3 * torch.randn(acts[site].shape, generator=rng, dtype=torch.float64)
        there, back = (
            metric(model.run_with_hooks(ids, fwd_hooks=[(site, lambda a, hook, d=d: a + d)])) for d in (step, -step)
        )
        predicted = (grads[site] * step).sum()
        assert abs(float(((there - back) / 2 - predicted) / (grads[site].norm() * step.norm()))) < 2e-3, site


def test_gradients_are_refused_without_grad_mode(model: HookedModel, ids: Tensor) -> None:
    """C8."""
    with pytest.raises(VestigeError, match=r"gradients need grad mode; leave torch.no_grad\(\)"):
        model.gradients(ids, metric, names_filter="resid_post.0")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda logits: logits[:, -1], r"must be one number computed from the logits, got shape \(2, 99\)"),
        (lambda logits: logits.detach().sum(), "without a gradient"),
        (lambda logits: torch.ones((), requires_grad=True) * 2, "does not depend on 'blocks.0.hook_resid_post'"),
    ],
)
def test_a_metric_that_has_no_gradient_is_refused(model: HookedModel, ids: Tensor, wrong: Any, message: str) -> None:
    """C8."""
    with torch.enable_grad(), pytest.raises(VestigeError, match=message):
        model.gradients(ids, wrong, names_filter="resid_post.0")


def test_gradients_leave_no_gradient_on_parameters(ids: Tensor) -> None:
    model = tiny_model()
    with torch.enable_grad():
        model.gradients(ids, metric, names_filter="resid_post.0")
    assert all(p.grad is None for p in model.model.parameters())


def test_logits_honour_the_callers_grad_mode(model: HookedModel, ids: Tensor) -> None:
    assert not model.logits(ids).requires_grad
    with torch.enable_grad():
        assert model.logits(ids).requires_grad
        assert not model.run_with_cache(ids, names_filter="resid_post.0")[1]["resid_post", 0].requires_grad


def test_training_reaches_every_parameter_and_names_those_it_does_not(ids: Tensor) -> None:
    """B12: parameters without a gradient are tolerated."""
    model = tiny_model()
    with torch.enable_grad():
        residual, _ = model.run_with_cache(ids, stop_at_layer=1)
        residual.sum().backward()
    without = [name for name, p in model.model.named_parameters() if p.grad is None]
    assert without[0].startswith("model.layers.1.")
    assert "lm_head.weight" in without
    assert "model.layers.0.mlp.down_proj.weight" not in without
