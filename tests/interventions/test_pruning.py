from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from interventions import selective_pruning
from interventions.neurons import count_of
from tests.contracts import InterventionContract
from tests.tiny import random_ids, shared_model, tiny_model


class TestSelectivePruning(InterventionContract):
    required = ("retain",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return selective_pruning(model, data, top=0.05)


class TestSelectivePruningByHooks(InterventionContract):
    required = ("retain",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return selective_pruning(model, data, top=0.05, form="hooks")


def pruned(made: Intervention) -> list[tuple[int, int]]:
    return sorted(
        (int(site.split(".")[1]), int(j))  # type: ignore[union-attr]
        for site, edit in made.edits.items()
        for j in edit.neurons  # type: ignore[attr-defined]
    )


def slow_scores(model: HookedModel, data: UnlearnData) -> torch.Tensor:
    """Ratio of mean absolute activations, one item at a time."""
    means = []
    for items in (data.forget, data.retain):
        rows = []
        for item in items:
            batch = model.tokenize(item.prompt, answers=[item.answer])
            cache = model.run_with_cache(batch)[1]
            rows.append(torch.stack([cache["mlp_post", layer][0].abs() for layer in range(model.n_layers)], 1))
        means.append(torch.cat(rows).mean(0))
    return means[0] / means[1]


def test_the_highest_ratios_over_all_blocks_are_pruned(tiny_data: UnlearnData) -> None:
    model = shared_model("llama")
    scores = slow_scores(model, tiny_data).flatten()
    count = count_of(len(scores), 0.05)
    wanted = sorted((int(i) // model.d_mlp, int(i) % model.d_mlp) for i in scores.argsort(descending=True)[:count])
    made = selective_pruning(model, tiny_data, top=0.05, form="hooks")
    assert pruned(made) == wanted
    assert made.spec.settings["neurons"] == count == 8


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_both_forms_are_exactly_equal_also_with_biases(
    family: str, tiny_data: UnlearnData, rng: torch.Generator
) -> None:
    model, ids = tiny_model(family), random_ids(rng)
    results = []
    for form in ("weights", "hooks"):
        with torch.no_grad(), selective_pruning(model, tiny_data, top=0.1, form=form).applied(model) as view:
            results.append(view.logits(ids))
    assert torch.equal(*results)


def test_neurons_that_tie_with_the_last_are_pruned_too(tiny_data: UnlearnData) -> None:
    model = tiny_model("gpt2")
    weight, bias = (model.model.get_parameter(f"transformer.h.1.mlp.c_fc.{name}") for name in ("weight", "bias"))
    with torch.no_grad():
        # Every neuron of block 1 computes the same, so all their scores are equal.
        weight.copy_(weight[:, :1].expand_as(weight).clone())
        bias.copy_(bias[:1].expand_as(bias).clone())
    scores = slow_scores(model, tiny_data)
    better = int((scores > scores[1, 0] * (1 + 1e-6)).sum()) - int((scores[1] > scores[1, 0] * (1 + 1e-6)).sum())
    top = (better + 1) / scores.numel()
    made = selective_pruning(model, tiny_data, top=top, form="hooks")
    assert len(pruned(made)) == better + model.d_mlp


def test_neurons_dead_on_retain_text_come_first_unless_hardly_alive_on_forget_text(tiny_data: UnlearnData) -> None:
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.model.get_parameter("transformer.h.0.mlp.c_fc.weight")[:, :2] = 0
        model.model.get_parameter("transformer.h.0.mlp.c_fc.bias")[:2] = torch.tensor([0.0, 1e-4])
    plain = selective_pruning(model, tiny_data, top=0.05, form="hooks")
    # Neuron 0 is dead on both texts, and 0 / 0 must not win.
    assert (0, 0) not in pruned(plain)
    everything = selective_pruning(model, tiny_data, top=1.0, form="hooks", min_forget=0.01)
    assert (0, 1) not in pruned(everything)
    assert len(pruned(everything)) > 0.9 * 3 * model.d_mlp


def test_weights_of_other_neurons_stay_bit_equal(tiny_data: UnlearnData) -> None:
    model = tiny_model("llama")
    before = [model.value_vectors(layer).clone() for layer in range(3)]
    made = selective_pruning(model, tiny_data, top=0.05)
    chosen = pruned(selective_pruning(model, tiny_data, top=0.05, form="hooks"))
    with made.applied(model):
        for layer in range(3):
            rows = [j for at, j in chosen if at == layer]
            kept = [j for j in range(model.d_mlp) if j not in rows]
            assert (model.value_vectors(layer)[rows] == 0).all()
            assert torch.equal(model.value_vectors(layer)[kept], before[layer][kept])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"top": 1.5}, "top is a fraction"),
        ({"form": "mask"}, "form is 'weights' or 'hooks', got 'mask'"),
        ({"relative_epsilon": 0.0}, "relative_epsilon is above 0"),
        ({"min_forget": 1e9}, "no neuron passes min_forget"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str, tiny_data: UnlearnData) -> None:
    with pytest.raises(VestigeError, match=message):
        selective_pruning(shared_model("gpt2"), tiny_data, **settings)  # type: ignore[arg-type]


def test_mixtures_of_experts_are_refused(tiny_data: UnlearnData) -> None:
    model = tiny_model("llama")
    model.config.num_experts = 2
    with pytest.raises(VestigeError, match="selective_pruning works on dense MLPs"):
        selective_pruning(model, replace(tiny_data))
