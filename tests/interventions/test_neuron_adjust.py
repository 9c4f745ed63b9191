from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from hooked import HookedModel, Intervention, Item, RunningMoments, TokenBatch, UnlearnData, VestigeError
from interventions import neuron_adjust
from interventions.neuron_adjust import AdjustNeurons
from interventions.neurons import by_layer, count_of, highest, neuron_moments
from tests.contracts import InterventionContract
from tests.tiny import shared_model, tiny_model, words


class TestNeuronAdjust(InterventionContract):
    required = ("retain",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return neuron_adjust(model, data, top=0.2)


class TestNeuronAdjustMean(InterventionContract):
    required = ("retain",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return neuron_adjust(model, data, top=0.2, mode="mean", score="cohen_d")


@pytest.mark.filterwarnings("ignore:neuron_adjust with mode='sample'")
class TestNeuronAdjustSample(InterventionContract):
    required = ("retain",)
    deterministic = False

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return neuron_adjust(model, data, top=0.2, mode="sample", score="abs")


def edit(mode: str = "deterministic", *, seed: int = 0) -> AdjustNeurons:
    """One neuron with the worked example of the specification: N(1, 2) on forget text, N(-1, 0.5) on retain text."""
    mu_f, sigma_f, mu_r, sigma_r = (torch.tensor([value], dtype=torch.float64) for value in (1.0, 2.0, -1.0, 0.5))
    return AdjustNeurons(torch.tensor([0]), mu_f, sigma_f, mu_r, sigma_r, mode=mode, seed=seed)  # type: ignore[arg-type]


def normal(acts: torch.Tensor, mu: float, sigma: float) -> torch.Tensor:
    return torch.exp(-0.5 * ((acts - mu) / sigma) ** 2) / (sigma * math.sqrt(2 * math.pi))


@pytest.mark.parametrize(
    ("mode", "before", "after"),
    [
        ("deterministic", 3.0, -1.5),
        ("deterministic", 0.0, -0.75),
        ("deterministic", -1.0, -1.0),
        ("mean", 0.0, -0.464851),
        ("mean", -1.0, -1.0),
    ],
)
def test_worked_values(mode: str, before: float, after: float) -> None:
    acts = torch.tensor([[before]], dtype=torch.float64)
    assert edit(mode).adjusted(acts).item() == pytest.approx(after, abs=5e-7)


def test_modes_agree_with_the_densities_written_out(rng: torch.Generator) -> None:
    acts = torch.randn(500, 1, generator=rng, dtype=torch.float64) * 3
    forget, retain = normal(acts, 1.0, 2.0), normal(acts, -1.0, 0.5)
    mapped = -1.0 - 0.25 * (acts - 1.0)
    share = forget / (forget + retain)
    chosen = forget >= retain
    assert 0 < chosen.sum() < len(acts)
    assert torch.allclose(edit().adjusted(acts), torch.where(chosen, mapped, acts))
    assert torch.allclose(edit("mean").adjusted(acts), torch.where(chosen, share * mapped + (1 - share) * acts, acts))
    uniform = torch.rand(acts.shape, generator=rng, dtype=torch.float64)
    tossed = chosen & (uniform >= retain / (retain + forget))
    assert torch.allclose(edit("sample").adjusted(acts, uniform=uniform), torch.where(tossed, mapped, acts))
    assert 0 < tossed.sum() < chosen.sum()


def test_far_out_where_both_densities_underflow_the_decision_still_stands() -> None:
    acts = torch.tensor([[400.0], [-400.0]], dtype=torch.float64)
    assert (normal(acts, 1.0, 2.0) == 0).all()
    assert torch.allclose(edit().adjusted(acts), -1.0 - 0.25 * (acts - 1.0))


def test_samples_of_the_forget_distribution_land_on_the_retain_distribution(rng: torch.Generator) -> None:
    n = 20_000
    acts = 1.0 + 2.0 * torch.randn(n, 1, generator=rng, dtype=torch.float64)
    wide = edit()
    mapped = wide.mu_retain - (wide.sigma_retain / wide.sigma_forget) * (acts - wide.mu_forget)
    moved = wide.adjusted(acts) != acts
    assert torch.equal(wide.adjusted(acts)[moved], mapped[moved])
    assert abs(mapped.mean().item() + 1.0) < 3 * 0.5 / math.sqrt(n)
    assert abs(mapped.std().item() - 0.5) < 3 * 0.5 / math.sqrt(2 * (n - 1))


@pytest.mark.filterwarnings("error")
def test_every_element_has_its_own_coin_and_seeds_differ() -> None:
    model = shared_model("llama")
    # At h = 0 the worked example adjusts with probability 0.62.
    fixed = torch.zeros(4, 6, model.d_mlp)
    numbers = (torch.full((model.d_mlp,), value) for value in (1.0, 2.0, -1.0, 0.5))
    mu_f, sigma_f, mu_r, sigma_r = numbers
    every = torch.arange(model.d_mlp)
    site = model.site_map.resolve(("mlp_pre", 1))
    outcomes = []
    for seed in (0, 0, 1):
        edits = {site: AdjustNeurons(every, mu_f, sigma_f, mu_r, sigma_r, mode="sample", seed=seed)}
        adjusted = through(model, edits, site, fixed)
        moved = (adjusted != 0).float()
        assert abs(moved.mean().item() - 0.6198) < 3 * math.sqrt(0.62 * 0.38 / moved.numel())
        # A coin shared along an axis would make everything along it agree.
        assert all((moved != moved.narrow(axis, 0, 1)).any() for axis in range(3))
        outcomes.append(moved)
    assert torch.equal(outcomes[0], outcomes[1])
    assert not torch.equal(outcomes[0], outcomes[2])


def through(model: HookedModel, edits: dict[str, AdjustNeurons], site: str, acts: torch.Tensor) -> torch.Tensor:
    """Put fixed activations at a site and return what the edits make of them."""
    ids = torch.full(acts.shape[:2], 5)
    hooks: list[tuple[Any, Any]] = [(site, lambda activation, hook: acts.to(activation)), *edits.items()]
    _, cache = model.run_with_cache(ids, names_filter=site, fwd_hooks=hooks)
    return cache[site]


def test_decoding_in_sample_mode_warns_and_scoring_does_not(tiny_data: UnlearnData) -> None:
    model = shared_model("llama")
    prompt = tiny_data.forget[0].prompt
    with neuron_adjust(model, tiny_data, mode="sample").applied(model) as view:
        view.logits(prompt)
        with pytest.warns(UserWarning, match="cached and uncached decoding differ"):
            view.generate(prompt, max_new_tokens=3, stop_at_eos=False)


@pytest.mark.parametrize(
    ("n", "top", "count"),
    [
        (458_752, 0.005, 2_294),
        (458_752, 0.015, 6_882),
        (458_752, 0.03, 13_763),
        (50, 0.42, 21),
        (7, 1.0, 7),
        (10, 1e-9, 1),
    ],
)
def test_how_many_neurons_a_fraction_selects(n: int, top: float, count: int) -> None:
    assert count_of(n, top) == count


def test_scores_rank_as_defined(tiny_data: UnlearnData) -> None:
    model = shared_model("gpt2")
    forget, retain = (
        neuron_moments(model, items, kind="mlp_pre", batch_size=5) for items in (tiny_data.forget, tiny_data.retain)
    )
    mean = torch.cat([f.mean - r.mean for f, r in zip(forget, retain, strict=True)])
    pooled = torch.cat([((f.std**2 + r.std**2) / 2).sqrt() for f, r in zip(forget, retain, strict=True)])
    for score, values in (("signed", mean), ("abs", mean.abs()), ("cohen_d", mean / pooled)):
        made = neuron_adjust(model, tiny_data, top=0.05, score=score)  # type: ignore[arg-type]
        flat = values.argsort(descending=True)[: count_of(len(values), 0.05)]
        wanted = sorted((int(i) // model.d_mlp, int(i) % model.d_mlp) for i in flat)
        found = sorted(
            (layer, int(j))
            for layer in range(model.n_layers)
            if (e := made.edits.get(f"blocks.{layer}.mlp.hook_pre")) is not None
            for j in e.neurons  # type: ignore[attr-defined]
        )
        assert found == wanted
        for site, adjust in made.edits.items():
            assert isinstance(adjust, AdjustNeurons)
            layer, neurons = int(str(site).split(".")[1]), adjust.neurons
            for stored, moments in ((adjust.mu_forget, forget), (adjust.mu_retain, retain)):
                assert torch.allclose(stored, moments[layer].mean[neurons])
            for stored, moments in ((adjust.sigma_forget, forget), (adjust.sigma_retain, retain)):
                assert torch.allclose(stored, moments[layer].std[neurons])


def test_statistics_are_those_of_all_real_tokens_in_any_batching(tiny_data: UnlearnData) -> None:
    model = shared_model("llama")
    rows = []
    for item in tiny_data.forget:
        batch = model.tokenize(item.prompt, answers=[item.answer])
        rows.append(model.run_with_cache(batch, names_filter=("mlp_pre", 1))[1]["mlp_pre", 1][0])
    wanted = RunningMoments.of(torch.cat(rows))
    for batch_size in (1, 5, 32):
        got = neuron_moments(model, tiny_data.forget, kind="mlp_pre", batch_size=batch_size)[1]
        assert got.count == wanted.count
        assert torch.allclose(got.mean, wanted.mean, atol=1e-6)
        assert torch.allclose(got.std, wanted.std, atol=1e-6)


def test_equal_scores_are_taken_in_order_and_split_by_block() -> None:
    scores = torch.tensor([1.0, 2.0, 2.0, 2.0, 0.0, 2.0])
    chosen = highest(scores, 3)
    assert chosen.tolist() == [1, 2, 3]
    assert {layer: n.tolist() for layer, n in by_layer(chosen, [2, 2, 2]).items()} == {0: [1], 1: [0, 1]}


def test_a_constant_neuron_gives_finite_numbers() -> None:
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.model.get_parameter("transformer.h.0.mlp.c_fc.weight").zero_()
    data = UnlearnData(
        forget=tuple(Item(f"t{i} t5", "t9") for i in range(3, 9)),
        retain=tuple(Item(f"t{i} t6", "t9") for i in range(40, 49)),
    )
    made = neuron_adjust(model, data, top=1.0)
    with made.applied(model) as view:
        assert torch.isfinite(view.logits("t3 t5 t9")).all()


def test_mixtures_of_experts_are_refused(tiny_data: UnlearnData) -> None:
    model = tiny_model("llama")
    model.config.num_local_experts = 4
    with pytest.raises(VestigeError, match=r"neuron_adjust works on dense MLPs.*num_local_experts=4"):
        neuron_adjust(model, tiny_data)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top": 0.0}, "top is a fraction above 0"),
        ({"top": 3}, "top is a fraction .* 3 % is 0.03"),
        ({"mode": "median"}, "mode is one of deterministic, mean, sample, got 'median'"),
        ({"score": "t"}, "score is one of signed, abs, cohen_d, got 't'"),
        ({"batch_size": 0}, "batch_size is at least 1, got 0"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str, tiny_data: UnlearnData) -> None:
    with pytest.raises(VestigeError, match=message):
        neuron_adjust(shared_model("gpt2"), tiny_data, **settings)  # type: ignore[arg-type]


def test_half_precision_models_are_adjusted_in_float32(tiny_data: UnlearnData) -> None:
    model = tiny_model("llama", dtype=torch.bfloat16)
    batch: TokenBatch = model.tokenize(words(torch.tensor([5, 6, 7])))
    with neuron_adjust(model, tiny_data, top=0.5).applied(model) as view:
        changed = view.logits(batch)
    assert changed.dtype == torch.bfloat16
    assert not torch.equal(changed, model.logits(batch))
