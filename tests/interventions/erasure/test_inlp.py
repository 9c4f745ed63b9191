from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from interventions import orthogonalize
from interventions.direction import RemoveSubspace
from interventions.erasure.inlp import inlp, nullspace_basis
from interventions.erasure.labelled import rows_at
from tests.contracts import InterventionContract
from tests.interventions.conftest import make_items
from tests.numerics import error
from tests.tiny import random_ids, shared_model, tiny_model


class TestInlp(InterventionContract):
    required = ("retain",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return inlp(model, data, site=("resid_post", 1), directions=4)


class TestInlpInWeights(InterventionContract):
    required = ("retain",)

    def make(self, model: HookedModel, data: UnlearnData) -> Intervention:
        return inlp(model, data, site=("attn_out", 1), form="weights", directions=3, positions="all")


def classes(n: int, d: int, informative: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two classes whose means differ in the first dimensions, most in the first of all."""
    shift = torch.zeros(d, dtype=torch.float64)
    shift[:informative] = torch.arange(informative, 0, -1)
    forget, retain = (torch.randn(n, d, generator=rng, dtype=torch.float64) for _ in range(2))
    return forget + shift, retain


@pytest.mark.parametrize("directions", [1, 2, 4])
def test_the_projection_is_orthogonal_and_idempotent_and_of_full_rank(directions: int, rng: torch.Generator) -> None:
    forget, retain = classes(100, 12, 6, rng)
    basis, accuracies = nullspace_basis(forget, retain, directions=directions)
    assert basis.shape == (directions, 12)
    assert len(accuracies) == directions + 1
    projection = torch.eye(12, dtype=torch.float64) - basis.T @ basis
    assert error(basis @ basis.T, torch.eye(directions, dtype=torch.float64)) < 1e-12
    assert error(projection @ projection, projection) < 1e-12
    assert torch.equal(projection, projection.T)
    assert torch.linalg.matrix_rank(projection) == 12 - directions


def test_it_is_the_product_of_the_projections_of_successive_probes(rng: torch.Generator) -> None:
    """The published form, one matrix after the other: a projection, since every probe lies in what is left."""
    forget, retain = classes(80, 8, 4, rng)
    basis, _ = nullspace_basis(forget, retain, directions=3)
    acts = torch.cat([forget, retain])
    acts = (acts - acts.mean(0)) / (acts - acts.mean(0)).square().mean().sqrt()
    labels = np.repeat([1, 0], 80)
    product = torch.eye(8, dtype=torch.float64)
    for _ in range(3):
        probe = LogisticRegression(class_weight="balanced", max_iter=10_000).fit((acts @ product).numpy(), labels)
        w = torch.from_numpy(probe.coef_[0] / np.linalg.norm(probe.coef_[0]))
        assert error(product @ w, w) < 1e-6
        product = product @ (torch.eye(8, dtype=torch.float64) - torch.outer(w, w))
    assert error(product, torch.eye(8, dtype=torch.float64) - basis.T @ basis) < 1e-5


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_probes_get_worse_until_there_is_nothing_to_read(seed: int) -> None:
    forget, retain = classes(400, 10, 2, torch.Generator().manual_seed(seed))
    basis, accuracies = nullspace_basis(forget, retain, directions=5)
    assert accuracies[0] > 0.85
    assert accuracies[0] > accuracies[1] > accuracies[-1] - 0.02
    assert accuracies[-1] < 0.56
    # The first probe points along the difference of the means.
    assert basis[0, 0] > 0.8


def test_it_stops_where_a_probe_finds_nothing() -> None:
    forget = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [1.0, -1.0, 0.0]], dtype=torch.float64)
    retain = forget * torch.tensor([-1.0, 1.0, 1.0])
    basis, accuracies = nullspace_basis(forget, retain, directions=2)
    assert error(basis.abs(), torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)) < 1e-6
    assert accuracies[0] == 1.0
    assert len(accuracies) == 2
    assert accuracies[1] == 0.5


@pytest.fixture(scope="module")
def many() -> UnlearnData:
    return UnlearnData(make_items(40, low=3, high=60, seed=1), make_items(60, low=40, high=99, seed=2))


@pytest.mark.parametrize("positions", ["last", "all"])
def test_the_probes_are_blind_to_what_the_view_shows(positions: Any, many: UnlearnData) -> None:
    model = tiny_model("gpt2", dtype=torch.float64)
    made = inlp(model, many, site="resid_post.1", directions=10, positions=positions)
    edit = made.edits["blocks.1.hook_resid_post"]
    assert isinstance(edit, RemoveSubspace)
    settings = made.spec.settings
    assert settings["rank"] == len(edit.basis) == 10
    assert settings["accuracies"][0] > settings["accuracies"][-1] + 0.1

    def acts(of: HookedModel) -> list[Tensor]:
        return [
            torch.cat(list(rows_at(of, items, "blocks.1.hook_resid_post", positions=positions, batch_size=9)))
            for items in (many.forget, many.retain)
        ]

    before = acts(model)
    with made.applied(model) as view:
        after = acts(view)
    assert settings["rows"] == sum(len(part) for part in after)
    for part, plain in zip(after, before, strict=True):
        assert (part @ edit.basis.T).abs().max() < 1e-12
        assert error(part, plain - plain @ edit.basis.T @ edit.basis) < 1e-12
    _, accuracies = nullspace_basis(*after, directions=1)
    assert accuracies[0] == pytest.approx(settings["accuracies"][-1], abs=0.03)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt", "gpt_neox", "phi3"])
@pytest.mark.parametrize("kind", ["mlp_out", "attn_out"])
def test_both_forms_give_the_same_logits(family: str, kind: str, many: UnlearnData, rng: torch.Generator) -> None:
    model, ids = tiny_model(family, dtype=torch.float64), random_ids(rng)
    with torch.no_grad():
        before, got = model.logits(ids), []
        for form in ("hooks", "weights"):
            with inlp(model, many, site=(kind, 1), form=form, directions=3).applied(model) as view:  # type: ignore[arg-type]
                got.append(view.logits(ids))
    assert error(got[0], before) > 1e-3
    assert error(got[1], got[0]) < 1e-10


def test_its_span_can_be_taken_out_of_the_whole_stream(many: UnlearnData) -> None:
    model = tiny_model("gpt2", tie_word_embeddings=False, dtype=torch.float64)
    edit = inlp(model, many, site="resid_post.1", directions=3).edits["blocks.1.hook_resid_post"]
    assert isinstance(edit, RemoveSubspace)
    with orthogonalize(model, edit.basis).applied(model) as view:
        stream = view.run_with_cache("t3 t4 t5", names_filter="resid_post.2")[1]["resid_post", 2]
    # The patch is kept in float32.
    assert (stream @ edit.basis.T).abs().max() < 1e-5


def test_wrong_settings_are_named(many: UnlearnData) -> None:
    model = shared_model("llama")
    settings: dict[str, Any]
    for settings, message in (
        ({"form": "both"}, "form is 'hooks' or 'weights', got 'both'"),
        ({"directions": 0}, "at least 1 and below the 32 dimensions of 'blocks.1.hook_resid_post', got 0"),
        ({"directions": 32}, "got 32"),
        ({"form": "weights"}, "'blocks.1.hook_resid_post' of LlamaForCausalLM is none; .* or orthogonalize"),
    ):
        with pytest.raises(VestigeError, match=message):
            inlp(model, many, **{"site": "resid_post.1", **settings})
    same = UnlearnData(many.forget, many.forget)
    with pytest.raises(VestigeError, match=r"no linear probe finds a difference at 'blocks.1.hook_resid_post'"):
        inlp(model, same, site="resid_post.1")
