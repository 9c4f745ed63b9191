from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from sklearn.covariance import oas
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from hooked import HookedModel, Intervention, Item, UnlearnData, VestigeError
from interventions.erasure.leace import Eraser, fit_eraser, leace, shrunk
from tests.contracts import InterventionContract
from tests.interventions.conftest import make_items
from tests.numerics import error
from tests.tiny import FAMILIES, random_ids, shared_model, tiny_model


class TestLeace(InterventionContract):
    required = ("retain",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return leace(model, data, site=("resid_post", 1))


class TestLeaceOnAllTokens(InterventionContract):
    required = ("retain",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return leace(model, data, site=("mlp_post", 1), positions="all", shrinkage=True, affine=False)


class TestLeaceInWeights(InterventionContract):
    required = ("retain",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        # Llama has no bias for the constant part.
        affine = "bias" in " ".join(model.state())
        return leace(model, data, site=("mlp_out", 1), form="weights", affine=affine)


# The closed form.

X = torch.tensor([(2, 1), (1, 0), (-1, 0), (-2, -1), (0, 1), (0, -1)], dtype=torch.float64)
Z = torch.tensor([1, 1, -1, -1, 1, -1], dtype=torch.float64)


def moments(x: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Population covariance of activations, and with labels."""
    centred = x - x.mean(0)
    return centred.T @ centred / len(x), centred.T @ (z - z.mean(0)).reshape(len(x), -1) / len(x)


def test_the_published_example_in_exact_fractions() -> None:
    covariance, cross = moments(X, Z)
    f = Fraction
    assert error(covariance, exact([[f(5, 3), f(2, 3)], [f(2, 3), f(2, 3)]])) < 1e-12
    assert error(cross[:, 0], exact([f(1), f(2, 3)])) < 1e-12
    eraser = fit_eraser(covariance, cross)
    assert error(eraser.projection, exact([[f(4, 7), f(-6, 7)], [f(-2, 7), f(3, 7)]])) < 1e-12
    orthogonal = fit_eraser(covariance, cross, orthogonal=True)
    for made, change in ((eraser, f(13, 7)), (orthogonal, f(77, 39))):
        assert (made(X) - X).square().sum(-1).mean().item() == pytest.approx(float(change), rel=1e-12)


def exact(values: list[Any]) -> Tensor:
    return torch.tensor(np.array(values, dtype=float))


def labelled(n: int, d: int, k: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Correlated activations whose mean depends on k labels."""
    z = torch.randint(0, 2, (n, k), generator=rng).double()
    mix, shift = (torch.randn(rows, d, generator=rng, dtype=torch.float64) for rows in (d, k))
    return torch.randn(n, d, generator=rng, dtype=torch.float64) @ mix + z @ shift + 5, z


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("orthogonal", [False, True])
@pytest.mark.parametrize("affine", [False, True])
def test_nothing_is_correlated_with_the_labels_any_more(
    k: int, orthogonal: bool, affine: bool, rng: torch.Generator
) -> None:
    x, z = labelled(300, 12, k, rng)
    covariance, cross = moments(x, z)
    eraser = fit_eraser(covariance, cross, centre=x.mean(0) if affine else None, orthogonal=orthogonal)
    after = eraser(x)
    assert cross.abs().max() > 0.1
    assert moments(after, z)[1].abs().max() < 1e-12
    # It is a projection of rank d - k: twice is once, and what is left has as many dimensions.
    assert error(eraser(after), after) < 1e-12
    assert torch.linalg.matrix_rank(after - after.mean(0), atol=1e-8) == 12 - k
    assert error(eraser.projection @ eraser.projection, eraser.projection) < 1e-12
    if affine:
        assert error(after.mean(0), x.mean(0)) < 1e-12


def test_a_single_label_has_a_closed_form(rng: torch.Generator) -> None:
    x, z = labelled(200, 6, 1, rng)
    covariance, cross = moments(x, z)
    against = cross.T @ torch.linalg.inv(covariance)
    wanted = torch.eye(6, dtype=torch.float64) - cross @ against / (against @ cross)
    assert error(fit_eraser(covariance, cross).projection, wanted) < 1e-10


def test_no_other_map_that_erases_changes_less(rng: torch.Generator) -> None:
    x, z = labelled(300, 5, 1, rng)
    covariance, cross = moments(x, z)

    def change(p: Tensor) -> float:
        lost = torch.eye(5).double() - p
        return float((lost @ covariance @ lost.T).trace())

    best = fit_eraser(covariance, cross).projection
    for _ in range(20):
        # I - c w^T with w^T c = 1 erases, for any w; and so does any map of what is left.
        w = torch.randn(5, generator=rng, dtype=torch.float64)
        other = torch.eye(5).double() - cross @ w[None] / (w @ cross)
        assert (other @ cross).abs().max() < 1e-9
        assert change(other) > change(best)
        for step in (1e-3, -1e-3):
            mixed = (1 - step) * best + step * other
            assert change(mixed) > change(best)
    assert change(fit_eraser(covariance, cross, orthogonal=True).projection) > change(best)


def test_scale_and_rotation_of_the_activations_do_not_matter(rng: torch.Generator) -> None:
    """The affine group acts on both sides: erasing and then mapping is mapping and then erasing."""
    x, z = labelled(200, 6, 2, rng)
    mix = torch.randn(6, 6, generator=rng, dtype=torch.float64)
    plain, mixed = (fit_eraser(*moments(y, z), centre=y.mean(0))(y) for y in (x, x @ mix))
    # Only the map that erases is equivariant, not its size: so under rotations and scalings, here.
    rotation = 3 * torch.linalg.qr(mix).Q
    rotated = fit_eraser(*moments(x @ rotation, z), centre=(x @ rotation).mean(0))(x @ rotation)
    assert error(rotated, plain @ rotation) < 1e-10
    assert moments(mixed, z)[1].abs().max() < 1e-11


@pytest.mark.parametrize("n", [8, 20])
def test_the_guarantee_holds_with_fewer_rows_than_dimensions(n: int, rng: torch.Generator) -> None:
    x, z = labelled(n, 30, 1, rng)
    eraser = fit_eraser(*moments(x, z), centre=x.mean(0))
    assert moments(eraser(x), z)[1].abs().max() < 1e-9
    far = torch.randn(30, generator=rng, dtype=torch.float64)
    span = torch.linalg.svd(x - x.mean(0), full_matrices=False).Vh[: n - 1]
    # Outside the span of the data nothing is read.
    outside = far - (far @ span.T) @ span
    assert error(eraser(x[:1] + outside), eraser(x[:1]) + outside) < 1e-9


def test_shrinkage_keeps_the_guarantee_and_gives_up_the_least_change(rng: torch.Generator) -> None:
    x, z = labelled(40, 12, 1, rng)
    covariance, cross = moments(x, z)
    small = shrunk(covariance, len(x))
    assert error(small, torch.from_numpy(oas(x.numpy())[0])) < 1e-12
    plain, soft = (fit_eraser(c, cross, centre=x.mean(0))(x) for c in (covariance, small))
    assert moments(soft, z)[1].abs().max() < 1e-12
    assert (soft - x).square().sum() > (plain - x).square().sum() * (1 + 1e-6)


def test_the_released_tolerance_leaves_weak_labels_alone(rng: torch.Generator) -> None:
    x = torch.randn(4000, 4, generator=rng, dtype=torch.float64)
    z = torch.arange(4000).double() % 2
    x[:, 0] += 0.01 * z - (x * z[:, None]).mean(0)[0]
    covariance, cross = moments(x, z)
    fit_eraser(covariance, cross)
    with pytest.raises(VestigeError, match=r"largest singular value is 0.0\d+, not above the tolerance of 0.1"):
        fit_eraser(covariance, cross, tolerance=0.1)


def test_linear_probes_are_at_the_majority_and_quadratic_ones_are_not(rng: torch.Generator) -> None:
    """The classes differ in mean and in spread; only the first is erased."""
    z = (torch.rand(600, generator=rng) < 0.4).double()
    x = torch.randn(600, 6, generator=rng, dtype=torch.float64) * (1 + z[:, None]) + z[:, None]
    after = fit_eraser(*moments(x, z), centre=x.mean(0))(x)
    majority = max(float(z.mean()), 1 - float(z.mean()))
    assert accuracy(x, z) > majority + 0.05
    assert accuracy(after, z) <= majority + 1e-9
    squares = torch.cat([after, after.square()], 1)
    assert accuracy(squares, z) > majority + 0.1


def accuracy(x: Tensor, z: Tensor) -> float:
    """Of a hardly penalised logistic regression on its own training rows."""
    probe = LogisticRegression(C=1e3, max_iter=10_000).fit(x.numpy(), z.numpy())
    return float(probe.score(x.numpy(), z.numpy()))


# Through a model.


@pytest.fixture(scope="module")
def many() -> UnlearnData:
    return UnlearnData(make_items(40, low=3, high=60, seed=1), make_items(60, low=40, high=99, seed=2))


def rows(model: HookedModel, items: tuple[Item, ...], site: Any, *, every: bool = False) -> Tensor:
    """Activations at the last prompt token, or of every word of prompt and answer."""
    name = model.site_map.resolve(site)
    answers = [item.answer for item in items] if every else None
    batch = model.tokenize([item.prompt for item in items], answers=answers)
    acts = model.run_with_cache(batch, names_filter=name, return_type=None)[1][name].detach()
    # Rows are padded on the left, and 1 is the BOS.
    return (acts[batch.mask & (batch.ids != 1)] if every else acts[:, -1]).double()


def read(model: HookedModel, data: UnlearnData, site: Any, *, every: bool) -> tuple[Tensor, Tensor]:
    """Activations of both classes, and their labels."""
    forget, retain = (rows(model, items, site, every=every) for items in (data.forget, data.retain))
    return torch.cat([forget, retain]), torch.cat([torch.ones(len(forget)), torch.zeros(len(retain))]).double()


@pytest.mark.parametrize("site", [("resid_post", 1), ("mlp_out", 2), ("attn_out", 0), ("mlp_post", 0)])
@pytest.mark.parametrize("positions", ["last", "all"])
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_no_linear_probe_reads_the_label_where_it_was_erased(
    family: str, positions: Any, site: Any, many: UnlearnData
) -> None:
    model, every = tiny_model(family, dtype=torch.float64), positions == "all"
    made = leace(model, many, site=site, positions=positions, shrinkage=site == ("mlp_post", 0))
    before, z = read(model, many, site, every=every)
    with made.applied(model) as view:
        after, _ = read(view, many, site, every=every)
    assert moments(before, z)[1].abs().max() > 1e-3
    assert moments(after, z)[1].abs().max() < 1e-12
    majority = max(float(z.mean()), 1 - float(z.mean()))
    assert accuracy(before, z) > majority + 0.05
    assert accuracy(after, z) <= majority + 1e-9
    assert made.spec.settings["rows"] == len(z)
    assert made.spec.settings["rank"] == 1
    change = (after - before).square().sum(-1).mean() / (before - before.mean(0)).square().sum(-1).mean()
    assert made.spec.settings["change"] == pytest.approx(float(change), rel=1e-9)
    assert error(after.mean(0), before.mean(0)) < 1e-10


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_text_that_was_not_fitted_on_is_close_to_the_majority(seed: int, many: UnlearnData) -> None:
    model = tiny_model("llama", seed=seed, dtype=torch.float64)
    made = leace(model, many, site="resid_post.1", positions="all")
    new = UnlearnData(make_items(60, low=3, high=60, seed=8), make_items(60, low=40, high=99, seed=9))
    scores = []
    for view in (model, None):
        with made.applied(model) as edited:
            read = [rows(view or edited, s, "resid_post.1", every=True) for s in (many.forget, many.retain)]
            held = [rows(view or edited, s, "resid_post.1", every=True) for s in (new.forget, new.retain)]
        direction = read[0].mean(0) - read[1].mean(0)
        gap = (held[0] @ direction).mean() - (held[1] @ direction).mean()
        scores.append(float(gap.abs() / torch.cat(held).std()))
    assert scores[1] < 0.05 * scores[0]


FOLDABLE = [
    (family, site)
    for family in FAMILIES
    for site in (("mlp_out", 1), ("attn_out", 1))
    if family not in ("gemma2", "olmo2", "granite")
]


@pytest.mark.parametrize(("family", "site"), FOLDABLE)
def test_both_forms_give_the_same_logits(family: str, site: Any, many: UnlearnData, rng: torch.Generator) -> None:
    model, ids = tiny_model(family, dtype=torch.float64), random_ids(rng)
    path = model.block_part(1, "mlp.out" if site[0] == "mlp_out" else "attn.o")
    affine = f"{path}.bias" in dict(model.model.named_parameters())
    with torch.no_grad():
        before, got = model.logits(ids), []
        for form in ("hooks", "weights"):
            with leace(model, many, site=site, form=form, affine=affine).applied(model) as view:
                got.append(view.logits(ids))
    assert error(got[0], before) > 1e-3
    assert error(got[1], got[0]) < 1e-10


@pytest.mark.parametrize("family", ["gemma2", "olmo2", "granite"])
def test_where_a_norm_or_a_factor_follows_the_raw_output_is_folded(
    family: str, many: UnlearnData, rng: torch.Generator
) -> None:
    model, ids = tiny_model(family, dtype=torch.float64), random_ids(rng)
    if family != "granite":
        with pytest.raises(VestigeError, match=r"'blocks.1.hook_mlp_out' of .* is none; .*'mlp_raw' or 'attn_raw'"):
            leace(model, many, site="mlp_out.1", form="weights")
    with torch.no_grad():
        got = []
        for form in ("hooks", "weights"):
            with leace(model, many, site="mlp_raw.1", form=form, affine=False).applied(model) as view:
                got.append(view.logits(ids))
    assert error(got[1], got[0]) < 1e-10


def test_fitting_in_batches_is_fitting_at_once(many: UnlearnData) -> None:
    model = tiny_model("gpt2", dtype=torch.float64)
    made = [leace(model, many, site="resid_post.0", batch_size=size).edits for size in (1, 7, 100)]
    erasers = [next(iter(edits.values())) for edits in made]
    x = torch.randn(4, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for other in erasers[1:]:
        assert error(other(x, hook=None), erasers[0](x, hook=None)) < 1e-9  # type: ignore[arg-type]


def test_half_precision_keeps_its_dtype_and_float32_arithmetic(rng: torch.Generator) -> None:
    x, z = labelled(200, 8, 1, rng)
    eraser = fit_eraser(*moments(x, z), centre=x.mean(0))
    for dtype in (torch.bfloat16, torch.float16):
        narrow = x.to(dtype)
        assert eraser(narrow).dtype == dtype
        assert torch.equal(eraser(narrow), eraser(narrow.float()).to(dtype))


# Errors.


def test_wrong_settings_and_sites_are_named(many: UnlearnData) -> None:
    model = shared_model("llama")
    fit: Callable[..., Intervention] = leace
    for settings, message in (
        ({"site": "resid_post.1", "form": "both"}, "form is 'hooks' or 'weights', got 'both'"),
        ({"site": "resid_post.1", "positions": "first"}, "positions is 'last' or 'all', got 'first'"),
        ({"site": "resid_post.9"}, r"no site 'blocks.9.hook_resid_post'"),
        ({"site": "z.1"}, r"'blocks.1.attn.hook_z' holds \(4, 8\) per token; use a site of the residual stream"),
        ({"site": "resid_post.1", "form": "weights"}, "is none; use 'mlp_out' or 'attn_out'.*, or orthogonalize"),
        ({"site": "mlp_post.1", "form": "weights", "shrinkage": True}, "is none; use 'mlp_out' or 'attn_out'"),
        ({"site": "mlp_out.1", "form": "weights"}, "'model.layers.1.mlp.down_proj' has no bias .* use affine=False"),
        ({"site": "embed", "form": "weights"}, "'hook_embed' of LlamaForCausalLM is none"),
    ):
        with pytest.raises(VestigeError, match=message):
            fit(model, many, **settings)
    same = UnlearnData(many.forget, tuple(replace(item, answer="t3") for item in many.forget))
    with pytest.raises(VestigeError, match="have the same mean, so there is nothing linear to erase"):
        leace(model, same, site="resid_post.1")


def test_few_rows_are_a_warning(tiny_data: UnlearnData) -> None:
    model, few = shared_model("llama"), replace(tiny_data, retain=tiny_data.retain[:20])
    with pytest.warns(UserWarning, match="fitted on 32 rows of 32 dimensions, so it erases what sets these rows apart"):
        made = leace(model, few, site="resid_post.1")
    eraser = made.edits["blocks.1.hook_resid_post"]
    assert isinstance(eraser, Eraser)
    leace(model, few, site="resid_post.1", shrinkage=True)
    leace(model, few, site="resid_post.1", positions="all")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_an_adapter_is_merged_before_weights_are_edited(many: UnlearnData) -> None:
    inner = get_peft_model(tiny_model("llama").model, LoraConfig(r=2, target_modules=["down_proj"]))  # type: ignore[arg-type]
    model = HookedModel(inner, shared_model("llama").tokenizer)
    with pytest.raises(VestigeError, match="leace with form='weights' edits plain weights, and an adapter writes"):
        leace(model, many, site="mlp_out.1", form="weights", affine=False)
