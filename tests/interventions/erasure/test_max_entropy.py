from __future__ import annotations

from math import log

import pytest
import torch
from torch.autograd import gradcheck

from hooked import HookedModel, Intervention, UnlearnData
from interventions.batches import encode
from interventions.erasure import max_entropy, max_entropy_loss
from interventions.erasure.lens import prompt_lens
from tests.contracts import LossContract
from tests.interventions.erasure.defences import FAST, leaked
from tests.interventions.training.knowing import probability


class TestMaxEntropy(LossContract):
    required = ("forget", "retain")

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return max_entropy(model, data, **FAST)


def test_it_is_minus_the_entropy_in_nats() -> None:
    probabilities = torch.tensor([[0.5, 0.25, 0.125, 0.125], [0.25, 0.25, 0.25, 0.25]], dtype=torch.float64)
    lens = probabilities.log()[None] + 7
    assert max_entropy_loss(lens).item() == pytest.approx(-(1.75 * log(2) + log(4)) / 2, rel=1e-12)
    assert max_entropy_loss(torch.zeros(3, 2, 11)).item() == pytest.approx(-log(11), rel=1e-6)
    sure = torch.tensor([[[1e4, 0.0, -1e4]]], requires_grad=True)
    loss = max_entropy_loss(sure)
    assert loss.item() == 0
    assert torch.isfinite(torch.autograd.grad(loss, [sure])[0]).all()


def test_its_gradient_is_known(rng: torch.Generator) -> None:
    lens = torch.randn(2, 3, 7, generator=rng, dtype=torch.float64).requires_grad_()
    assert gradcheck(max_entropy_loss, (lens,))
    (grad,) = torch.autograd.grad(max_entropy_loss(lens), [lens])
    log_p = lens.detach().log_softmax(-1)
    p = log_p.exp()
    entropy = -(p * log_p).sum(-1, keepdim=True)
    torch.testing.assert_close(grad, p * (log_p + entropy) / 6, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_lens_says_less(seed: int, knowing: HookedModel, task: UnlearnData) -> None:
    def entropy(model: HookedModel) -> float:
        with torch.no_grad():
            return -max_entropy_loss(prompt_lens(model, encode(model, task.forget), range(3))[0]).item()

    before = entropy(knowing)
    made = max_entropy(knowing, task, layer=0, lr=1e-2, epochs=30, batch_size=6, seed=seed)
    assert made.spec.settings["defence_layers"] == [0, 1, 2]
    assert made.spec.settings["first_loss"] == pytest.approx(-before, rel=1e-4)
    with made.applied(knowing) as view:
        assert entropy(view) > before + 1
        assert probability(view, task.forget) < 0.3
        assert probability(view, task.retain) > 0.95
        assert sum(leaked(view, task.forget)) < 2
