from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from interventions import ablate_vectors
from interventions.ablate import gaussians
from tests.contracts import InterventionContract
from tests.numerics import FLOAT32, error
from tests.tiny import FAMILIES, random_ids, shared_model, tiny_model

VECTORS = ((0, 3), (1, 5), (1, 40), (-1, 0))


class TestAblateVectors(InterventionContract):
    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return ablate_vectors(model, VECTORS)


class TestAblateVectorsByHooks(InterventionContract):
    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return ablate_vectors(model, VECTORS, form="hooks")


@pytest.mark.parametrize("family", sorted(FAMILIES))
@pytest.mark.parametrize("mode", ["gauss", "zero"])
def test_weights_and_hooks_give_the_same_logits(family: str, mode: str, rng: torch.Generator) -> None:
    model, ids = tiny_model(family), random_ids(rng)
    vectors = [(layer, neuron) for layer in range(model.n_layers) for neuron in (0, 7, 11)]
    with torch.no_grad():
        before = model.logits(ids)
        results = []
        for form in ("weights", "hooks"):
            with ablate_vectors(model, vectors, mode=mode, form=form).applied(model) as view:  # type: ignore[arg-type]
                results.append(view.logits(ids))
    assert error(results[0], before) > 1000 * FLOAT32
    # The noise is three times the vectors, so sums carry a few more roundings than one plain pass.
    assert error(results[1], results[0]) < 10 * FLOAT32


@pytest.mark.parametrize(("scale", "cosine"), [(1, 0.7071), (3, 0.3162), (5, 0.1961), (10, 0.0995)])
def test_noise_of_a_relative_size_turns_a_vector_by_a_known_angle(scale: int, cosine: float) -> None:
    model, draws = shared_model("gpt2"), 60
    old = model.value_vectors(1)[:draws]
    noise = torch.stack(gaussians(list(old), scale=scale, seed=0))
    found = torch.cosine_similarity(old, old + noise, dim=-1)
    # One draw scatters by about 1 / sqrt(d_model) around the mean.
    assert found.mean().item() == pytest.approx(cosine, abs=3 / (draws * model.d_model) ** 0.5)
    assert (noise.norm(dim=-1) / old.norm(dim=-1)).mean().item() == pytest.approx(scale, rel=0.05)


def test_every_mode_writes_what_it_says(rng: torch.Generator) -> None:
    model = tiny_model("llama", dtype=torch.float64)
    old = {layer: model.value_vectors(layer).clone() for layer in range(3)}
    columns = model.W_U[:, [5, 9, 44]].clone()
    with ablate_vectors(model, VECTORS, mode="zero").applied(model):
        assert (model.value_vectors(1)[[5, 40]] == 0).all()
        untouched = [j for j in range(model.d_mlp) if j not in (5, 40)]
        assert torch.equal(model.value_vectors(1)[untouched], old[1][untouched])
    with ablate_vectors(model, VECTORS, mode="mean").applied(model):
        assert torch.allclose(model.value_vectors(2)[0], old[2].mean(0))
    with ablate_vectors(model, VECTORS, mode="project_out", tokens=[5, "t9 t44"]).applied(model):
        for layer, neuron in ((0, 3), (1, 5), (2, 0)):
            new = model.value_vectors(layer)[neuron]
            assert (new @ columns).abs().max() < 1e-12
            assert (old[layer][neuron] @ columns).abs().max() > 0.01
            # What was taken out lies in the span of the tokens and nothing else was.
            change = old[layer][neuron] - new
            assert torch.allclose(columns @ torch.linalg.lstsq(columns, change[:, None]).solution[:, 0], change)
    assert torch.equal(model.value_vectors(1), old[1])


def test_projecting_out_a_whole_basis_leaves_nothing_and_warns() -> None:
    model = shared_model("gpt2")
    with pytest.warns(UserWarning, match="32 independent tokens span all of d_model = 32"):
        made = ablate_vectors(model, [(0, 1)], mode="project_out", tokens=list(range(40)))
    with made.applied(model):
        assert model.value_vectors(0)[1].norm() < 1e-5


def test_tokens_that_say_the_same_count_once() -> None:
    model = tiny_model("llama", dtype=torch.float64)
    head = model.model.get_parameter("lm_head.weight")
    with torch.no_grad():
        head[9] = 2 * head[5]
    results = []
    for tokens in ([5], [5, 9]):
        with ablate_vectors(model, [(1, 5)], mode="project_out", tokens=tokens).applied(model):
            results.append(model.value_vectors(1)[5].clone())
    assert torch.allclose(results[0], results[1])


def test_noise_does_not_pile_up_over_repeated_use() -> None:
    model = tiny_model("gpt2")
    before = model.value_vectors(0).clone()
    seen = []
    for _ in range(2):
        with ablate_vectors(model, [(0, 3)], seed=4).applied(model):
            seen.append(model.value_vectors(0)[3].clone())
        assert torch.equal(model.value_vectors(0), before)
    assert torch.equal(*seen)
    with ablate_vectors(model, [(0, 3)], seed=5).applied(model):
        assert not torch.equal(model.value_vectors(0)[3], seen[0])


@dataclass(frozen=True)
class Found:
    layer: int
    neuron: int
    score: float = 0.0


def test_anything_with_a_layer_and_a_neuron_names_a_vector_once() -> None:
    model = shared_model("gpt2")
    made = ablate_vectors(model, [Found(2, 4), (2, 4), (-1, 4), (0, 1)], mode="zero")
    assert made.spec.settings["vectors"] == [[2, 4], [0, 1]]
    assert made.spec.intent == "removal"
    assert ablate_vectors(model, [(0, 1)], form="hooks").spec.intent == "suppression"


def test_the_hooks_read_the_neuron_as_earlier_edits_left_it(rng: torch.Generator) -> None:
    model, ids = tiny_model("llama", dtype=torch.float64), random_ids(rng)

    def double(activation: torch.Tensor, hook: object) -> torch.Tensor:
        return 2 * activation

    edit = [("blocks.1.mlp.hook_post", double)]
    results = []
    for form in ("weights", "hooks"):
        with model.hooks(edit), ablate_vectors(model, [(1, 3)], form=form).applied(model) as view:
            results.append(view.logits(ids).detach())
    assert torch.allclose(results[0], results[1], atol=1e-9)


@pytest.mark.parametrize(
    ("vectors", "settings", "message"),
    [
        ([], {}, "no vector was given"),
        ([(3, 0)], {}, r"no layer 3 in a 3-layer model \(layers are 0 to 2\)"),
        ([(0, 128)], {}, "layer 0 has neurons 0 to 127, got 128"),
        ([(0, -1)], {}, "layer 0 has neurons 0 to 127, got -1"),
        ([(0, 0)], {"mode": "noise"}, "mode is one of gauss, zero, mean, project_out, got 'noise'"),
        ([(0, 0)], {"form": "both"}, "form is 'weights' or 'hooks', got 'both'"),
        ([(0, 0)], {"mode": "project_out"}, "'project_out' needs tokens="),
        ([(0, 0)], {"mode": "project_out", "tokens": [99]}, "tokens has 99, and token ids are 0 to 98"),
        ([(0, 0)], {"mode": "project_out", "tokens": [""]}, "'' gives no token"),
        ([(0, 0)], {"scale": -1.0}, "scale is a finite number of at least 0, got -1.0"),
    ],
)
def test_wrong_arguments_are_named(vectors: list[tuple[int, int]], settings: dict[str, object], message: str) -> None:
    with pytest.raises(VestigeError, match=message):
        ablate_vectors(shared_model("gpt2"), vectors, **settings)  # type: ignore[arg-type]
