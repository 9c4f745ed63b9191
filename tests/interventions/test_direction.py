from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from interventions import ablate_direction, orthogonalize
from interventions.direction import basis_of
from tests.contracts import InterventionContract
from tests.numerics import FLOAT32, error
from tests.tiny import random_ids, shared_model, tiny_model


def direction(seed: int = 0) -> Tensor:
    return torch.randn(32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def directions(count: int, seed: int = 1) -> Tensor:
    return torch.randn(count, 32, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def every_write(model: HookedModel) -> list[tuple[str, int]]:
    return [(kind, layer) for layer in range(model.n_layers) for kind in ("resid_pre", "attn_out", "mlp_out")]


class TestAblateDirection(InterventionContract):
    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return ablate_direction(direction(), sites=every_write(model))


class TestOrthogonalize(InterventionContract):
    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return orthogonalize(model, direction(), allow_tied=True)


class TestAblateSubspace(InterventionContract):
    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return ablate_direction(directions(3), sites=every_write(model))


class TestOrthogonalizeSubspace(InterventionContract):
    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return orthogonalize(model, directions(3), allow_tied=True)


# Conv1D with biases and learned positions; no bias, grouped heads; parallel blocks with biases; OPT has no MLP module.
@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox", "gptj", "opt", "phi3"])
@pytest.mark.parametrize("removed", [direction(), directions(4)], ids=["one", "four"])
def test_hooks_on_every_write_equal_the_weight_form(family: str, removed: Tensor, rng: torch.Generator) -> None:
    model, ids = tiny_model(family, tie_word_embeddings=False), random_ids(rng)
    with torch.no_grad():
        before = model.logits(ids)
        with ablate_direction(removed, sites=every_write(model)).applied(model) as view:
            hooks = view.logits(ids)
        with orthogonalize(model, removed).applied(model) as view:
            weights, cache = view.run_with_cache(ids)
    assert error(hooks, before) > 0.01
    assert error(weights, hooks) < 1e-5
    units = torch.nn.functional.normalize(removed.float().reshape(-1, 32), dim=-1)
    for layer in range(model.n_layers):
        assert (cache["resid_post", layer] @ units.T).abs().max() < 1e-5


def test_forgetting_the_biases_would_show(rng: torch.Generator) -> None:
    """The control of the equality above: without the biases the two forms differ visibly."""
    from hooked import WeightPatch

    model, ids = tiny_model("gpt2", tie_word_embeddings=False), random_ids(rng)
    made = orthogonalize(model, direction())
    assert made.weights is not None
    without = {name: delta for name, delta in made.weights.deltas.items() if not name.endswith(".bias")}
    assert len(without) == len(made.weights.deltas) - 2 * model.n_layers
    with torch.no_grad():
        with made.applied(model) as view:
            wanted = view.logits(ids)
        with Intervention(made.spec, weights=WeightPatch(without)).applied(model) as view:
            assert error(view.logits(ids), wanted) > 0.01


def test_removing_twice_is_removing_once_and_the_length_does_not_matter(rng: torch.Generator) -> None:
    model, ids = shared_model("llama"), random_ids(rng)
    sites = every_write(model)
    with torch.no_grad():
        results = []
        for made in (ablate_direction(direction(), sites=sites), ablate_direction(-3 * direction(), sites=sites)):
            with made.applied(model) as once:
                results.append(once.logits(ids))
                with made.applied(once) as twice:
                    results.append(twice.logits(ids))
    for other in results[1:]:
        assert error(other, results[0]) < 5 * FLOAT32


def test_only_the_span_of_several_directions_matters(rng: torch.Generator) -> None:
    model, ids, given = shared_model("llama"), random_ids(rng), directions(3)
    mixed = torch.randn(3, 3, generator=rng, dtype=torch.float64) @ given
    one, other = (basis_of(rows) for rows in (given, mixed))
    assert torch.allclose(one @ one.T, torch.eye(3, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(one.T @ one, other.T @ other, atol=1e-10)
    for sign in (1, -1):
        assert torch.allclose(basis_of(sign * given)[0], sign * given[0] / given[0].norm())
    results = []
    with torch.no_grad():
        for rows in (given, mixed):
            with ablate_direction(rows, sites=every_write(model)).applied(model) as once:
                results.append(once.logits(ids))
                with ablate_direction(rows, sites=every_write(model)).applied(once) as twice:
                    results.append(twice.logits(ids))
    for result in results[1:]:
        assert error(result, results[0]) < 5 * FLOAT32


def test_one_row_is_one_direction_bit_by_bit(rng: torch.Generator) -> None:
    model, ids = shared_model("gpt2"), random_ids(rng)
    results = []
    for given in (direction(), direction()[None]):
        for made in (
            ablate_direction(given, sites=every_write(model)),
            orthogonalize(model, given, allow_tied=True),
        ):
            with torch.no_grad(), made.applied(model) as view:
                results.append(view.logits(ids))
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[3])


def test_one_after_the_other_is_both_only_where_they_are_orthogonal(rng: torch.Generator) -> None:
    acts, given = torch.randn(5, 32, generator=rng, dtype=torch.float64), directions(2)
    basis = basis_of(given)

    def without(x: Tensor, rows: Tensor) -> Tensor:
        return x - (x @ rows.T) @ rows

    both = without(acts, basis)
    assert torch.allclose(without(without(acts, basis[:1]), basis[1:]), both)
    units = given / given.norm(dim=-1, keepdim=True)
    assert not torch.allclose(without(without(acts, units[:1]), units[1:]), both)


def test_it_leaves_no_trace_of_the_direction_and_keeps_the_rest(rng: torch.Generator) -> None:
    model, ids = shared_model("gpt2"), random_ids(rng)
    site = model.site_map.resolve(("resid_post", 1))
    unit = direction().float() / direction().norm().float()
    before = model.run_with_cache(ids, names_filter=site)[1][site]
    with ablate_direction(direction(), sites=[site]).applied(model) as view:
        after = view.run_with_cache(ids, names_filter=site)[1][site]
    assert (before @ unit).abs().max() > 0.1
    assert (after @ unit).abs().max() < 1e-5
    other = torch.randn(32, generator=rng)
    other -= (other @ unit) * unit
    assert error(after @ other, before @ other) < 10 * FLOAT32


def test_tied_embeddings_are_edited_only_when_asked() -> None:
    model = tiny_model("gpt2")
    with pytest.raises(VestigeError, match=r"'transformer.wte.weight' is tied to 'lm_head.weight'.*allow_tied=True"):
        orthogonalize(model, direction())
    with orthogonalize(model, direction(), allow_tied=True).applied(model):
        assert (model.W_U.T @ direction().float()).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("gemma2", "the norm 'model.layers.0.post_attention_layernorm' stands between attn and the residual stream"),
        ("olmo2", "the norm 'model.layers.0.post_attention_layernorm' stands between attn and the residual stream"),
        ("bloom", "normalises or projects its embedding"),
    ],
)
def test_families_in_which_a_norm_stands_in_between_are_refused(family: str, message: str) -> None:
    with pytest.raises(VestigeError, match=message):
        orthogonalize(tiny_model(family), direction(), allow_tied=True)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        (torch.zeros(32), "a direction needs a finite norm above 0, got 0.0"),
        (torch.full((32,), float("nan")), "a direction needs a finite norm above 0, got nan"),
        (torch.ones(2, 2, 32), r"a direction is one vector of length .*, or several as rows, got shape \(2, 2, 32\)"),
        (torch.ones(0, 32), r"or several as rows, got shape \(0, 32\)"),
        (torch.ones(2, 32), "2 directions span fewer than 2 dimensions; leave out those that the others give"),
        (torch.eye(32).repeat(2, 1)[:33], "33 directions span fewer than 33 dimensions"),
        (torch.stack([torch.ones(32), torch.zeros(32)]), "finite norm above 0, got 0.0"),
    ],
)
def test_bad_directions_are_refused(vector: Tensor, message: str) -> None:
    with pytest.raises(VestigeError, match=message):
        ablate_direction(vector, sites=["blocks.0.hook_resid_post"])
    with pytest.raises(VestigeError, match=message):
        orthogonalize(shared_model("llama"), vector)


def test_a_direction_of_another_width_or_no_site_is_refused() -> None:
    with pytest.raises(VestigeError, match=r"of length 32, or several as rows, got shape \(31,\)"):
        orthogonalize(shared_model("llama"), torch.ones(31))
    with pytest.raises(VestigeError, match="at least one site"):
        ablate_direction(direction(), sites=[])
    with (
        pytest.raises(VestigeError, match="no site"),
        ablate_direction(direction(), sites=["blocks.9.hook_resid_post"]).applied(shared_model("llama")),
    ):
        pass
