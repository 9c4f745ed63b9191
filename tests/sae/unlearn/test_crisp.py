from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from hooked import HookedModel, Intervention, LowRankDelta, UnlearnData, VestigeError
from hooked.adapter import adapted, adapter_patch
from sae.coder import Coder
from sae.group import GroupStatistics
from sae.items import read_items
from sae.read import read_coder
from sae.unlearn.crisp import crisp, salient_latents
from sae.unlearn.crisp_loss import feature_loss, mean_of_positive, stay_loss
from tests.contracts import InterventionContract
from tests.sae.made import made
from tests.tiny import D_MODEL, random_ids, tiny_model


def coder_of(architecture: str = "jumprelu") -> Coder:
    rng = torch.Generator().manual_seed(0)
    return read_coder(made(architecture, rng, d_in=D_MODEL, site="resid_post.1")).to("cpu", torch.float64)


def texts(data: UnlearnData) -> tuple[list[str], list[str]]:
    return [f"{i.prompt} {i.answer}" for i in data.forget], [f"{i.prompt} {i.answer}" for i in data.retain]


class TestCrisp(InterventionContract):
    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return crisp(model, coder_of("topk"), *texts(data), ratio=1.2, k=5, lr=1e-2, steps=5, retain_weight=0.5)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "gated", "standard"])
def test_the_weights_alone_keep_the_latents_from_firing(architecture: str, tiny_data: UnlearnData) -> None:
    model, coder = tiny_model("llama", dtype=torch.float64), coder_of(architecture)
    forget, retain = texts(tiny_data)
    settings = {"ratio": 1.2, "k": 3, "lr": 1e-2, "retain_weight": 0.5}
    made_ = crisp(model, coder, forget, retain, steps=25, **settings)  # type: ignore[arg-type]
    (chosen,) = [site["latents"] for site in made_.spec.settings["sites"].values()]
    before = read_items(model, coder, forget)
    with made_.applied(model) as view:
        after = read_items(view, coder, forget, rule=before.rule)
        kept = read_items(view, coder, retain, rule=before.rule)
    original = read_items(model, coder, retain, rule=before.rule)
    mean, now = (GroupStatistics.of(items).mean[chosen].sum() for items in (before, after))
    assert now < 0.3 * mean
    moved = (kept.acts - original.acts).norm(dim=-1).mean() / original.acts.norm(dim=-1).mean()
    gone = (after.acts - before.acts).norm(dim=-1).mean() / before.acts.norm(dim=-1).mean()
    assert moved < gone
    assert made_.points == ("weights",)
    assert made_.spec.intent == "removal"
    assert made_.spec.settings["last_feature_loss"] < made_.spec.settings["first_feature_loss"]


def test_adapters_start_as_the_model_and_end_as_their_patch(rng: torch.Generator) -> None:
    for family in ("gpt2", "llama"):
        model, ids = tiny_model(family, dtype=torch.float64), random_ids(rng)
        student, parameters = adapted(model, layers=[0, 1], rank=2, scale=2.0, seed=0)
        assert len(parameters) == 2 * 2 * (4 if family == "gpt2" else 7)
        with torch.no_grad():
            assert torch.equal(student.logits(ids), model.logits(ids))
            for parameter in parameters:
                parameter.copy_(torch.randn(parameter.shape, generator=rng).to(parameter))
            patch = adapter_patch(student)
            assert all(isinstance(delta, LowRankDelta) for delta in patch.deltas.values())
            from hooked.ledger import patched

            with patched(model.model, patch):
                assert (student.logits(ids) - model.logits(ids)).abs().max() < 1e-9
            assert (student.logits(ids) - model.logits(ids)).abs().max() > 0.1


def test_the_feature_loss_pushes_clearly_below_threshold() -> None:
    coder = Coder(
        site="s",
        site_out="s",
        nonlinearity="relu",
        W_enc=torch.eye(3, dtype=torch.float64),
        b_enc=torch.zeros(3, dtype=torch.float64),
        b_in=None,
        decoder=torch.eye(3, dtype=torch.float64),
        b_dec=torch.zeros(3, dtype=torch.float64),
    )
    original = torch.tensor([[2.0, 1.0, 0.0], [-1.0, 1.0, 0.0]], dtype=torch.float64)
    # The first token fires latent 0: 2 + |5 * mean(2, 1, 0)| = 7. The second does not, and -1 stays silent.
    assert float(feature_loss(coder, original, original, [0], margin=5.0)) == pytest.approx(7.0)
    silent = torch.tensor([[-0.1, 1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = feature_loss(coder, silent, original[:1], [0], margin=5.0)
    assert loss.item() == pytest.approx(-0.1 + 5 * 0.3)
    assert torch.autograd.grad(loss, silent)[0][0, 0] > 0
    below = torch.tensor([[-2.0, 1.0, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = feature_loss(coder, below, original[:1], [0], margin=5.0)
    assert loss.item() == 0
    assert torch.autograd.grad(loss, below)[0].abs().max() == 0
    assert feature_loss(coder, silent, original[:1], [0], margin=0.0).item() == 0


def test_only_positive_values_count() -> None:
    assert float(mean_of_positive(torch.tensor([-3.0, 0.0, 1.0, 3.0]))) == 2
    assert float(mean_of_positive(torch.tensor([-3.0, 0.0]))) == 0


def test_padding_does_not_have_to_stay() -> None:
    acts = torch.zeros(1, 3, 2)
    moved = acts.clone()
    moved[0, 0], moved[0, 2] = 1.0, 100.0
    assert float(stay_loss(moved, acts, torch.tensor([[True, True, False]]))) == 0.5


def statistics(n_tokens: int, n_active: list[int], total: list[float]) -> GroupStatistics:
    zeros = np.zeros(len(n_active))
    return GroupStatistics(1, n_tokens, np.array(n_active), np.array(n_active), np.array(total), zeros, zeros, zeros)


def test_selection_does_not_depend_on_the_size_of_a_corpus() -> None:
    """Latent 0 prefers the forget texts, 1 is more frequent there but not three times as active, 2 is common."""
    forget = statistics(100, [50, 60, 90], [500.0, 60.0, 900.0])
    retain = statistics(100, [1, 20, 90], [1.0, 40.0, 900.0])
    assert salient_latents(forget, retain, k=2, ratio=3.0) == [0]
    larger = statistics(10_000, [100, 2000, 9000], [100.0, 4000.0, 90000.0])
    assert salient_latents(forget, larger, k=2, ratio=3.0) == [0]
    with pytest.raises(VestigeError, match=r"no latent is 1000\.0 times as active on the forget texts, of 2"):
        salient_latents(forget, retain, k=2, ratio=1000.0)


def test_a_loss_that_is_not_finite_is_an_error(tiny_data: UnlearnData) -> None:
    model = tiny_model("llama", dtype=torch.float64)
    with pytest.raises(VestigeError, match=r"crisp diverged at step \d+ of 30: the loss is (nan|inf); lower lr"):
        crisp(model, coder_of("standard"), *texts(tiny_data), ratio=1.2, lr=1e200, steps=30)


def test_what_is_missing_is_named(tiny_data: UnlearnData) -> None:
    model, (forget, retain) = tiny_model("llama"), texts(tiny_data)
    with pytest.raises(VestigeError, match="crisp needs forget texts"):
        crisp(model, coder_of(), [], retain)
    with pytest.raises(VestigeError, match="crisp needs retain texts, a list of them, got 'one'"):
        crisp(model, coder_of(), forget, "one")
    with pytest.raises(VestigeError, match="at least one SAE"):
        crisp(model, [], forget, retain)
    with pytest.raises(VestigeError, match="one pre-activation per latent, got matching pursuit"):
        crisp(model, coder_of("matching_pursuit"), forget, retain)
    with pytest.raises(VestigeError, match="lr is a finite number above 0"):
        crisp(model, coder_of(), forget, retain, lr=0)
    with pytest.raises(VestigeError, match="steps is at least 0"):
        crisp(model, coder_of(), forget, retain, steps=-1)
    with pytest.raises(VestigeError, match="rank is at least 1"):
        crisp(model, coder_of("topk"), forget, retain, ratio=1.2, rank=0)
    with pytest.raises(VestigeError, match="adapters need at least one block"):
        crisp(model, coder_of("topk"), forget, retain, ratio=1.2, layers=[])
    elsewhere = replace(coder_of(), site="blocks.9.hook_resid_post", site_out="blocks.9.hook_resid_post")
    with pytest.raises(VestigeError, match=r"no site 'blocks.9.hook_resid_post'"):
        crisp(model, elsewhere, forget, retain)


def test_one_sae_per_site_and_layers_that_exist(tiny_data: UnlearnData) -> None:
    model, (forget, retain) = tiny_model("llama"), texts(tiny_data)
    with pytest.raises(VestigeError, match=r"two SAEs are at 'blocks.1.hook_resid_post'"):
        crisp(model, [coder_of("topk"), coder_of("jumprelu")], forget, retain)
    for layer in (model.n_layers, -model.n_layers - 1):
        with pytest.raises(VestigeError, match=f"no layer {layer} in .*, it has {model.n_layers}"):
            crisp(model, coder_of("topk"), forget, retain, ratio=1.2, layers=[layer])
    with pytest.raises(VestigeError, match="k is how many latents are pushed down per SAE, at least 1, got 0"):
        crisp(model, coder_of("topk"), forget, retain, k=0)
    settings: dict[str, Any] = {"ratio": 1.2, "steps": 0, "layers": [-1, model.n_layers - 1]}
    assert crisp(model, coder_of("topk"), forget, retain, **settings).spec.settings["layers"] == [model.n_layers - 1]


def test_adapters_leave_the_random_state_of_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.manual_seed` reseeds all GPUs, and nobody puts that back."""
    reseeded: list[int] = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", reseeded.append)
    before = torch.random.get_rng_state()
    first, second = (adapted(tiny_model("llama"), layers=[0], rank=2, scale=2.0, seed=5)[1] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not reseeded
