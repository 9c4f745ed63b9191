"""How far weights moved, against deltas written by hand and against singular values."""

from __future__ import annotations

import warnings

import pytest
import torch

from hooked import HookedModel, Intervention, Spec, WeightPatch
from hooked.weights import ColumnDelta, DenseDelta, LowRankDelta, RowDelta
from interventions import ablate_vectors
from tests.tiny import FAMILIES, shared_model, tiny_model
from vestige.intrinsic.weights import Moved, moved_between, moved_by, stable_rank

DOWN = "model.layers.1.mlp.down_proj.weight"


def by_name(moved: tuple[Moved, ...] | str) -> dict[str, Moved]:
    assert not isinstance(moved, str), moved
    return {one.name: one for one in moved}


def edit(**deltas: object) -> Intervention:
    patch = WeightPatch({DOWN: next(iter(deltas.values()))})  # type: ignore[dict-item]
    return Intervention(Spec("edit", "removal"), weights=patch)


def test_nothing_moved_between_a_model_and_itself() -> None:
    model = shared_model("llama")
    for moved in (moved_between(model, model), moved_by(Intervention(Spec("x", "removal")), model)):
        found = by_name(moved)
        assert {(one.delta, one.rows, one.stable_rank) for one in found.values()} == {(0.0, 0.0, None)}
        assert set(found) == {name for name, _ in model.model.named_parameters()}


@pytest.mark.parametrize(
    ("delta", "rows", "columns", "size", "rank"),
    [
        (RowDelta(torch.tensor([1, 3]), torch.ones(2, 48)), 2 / 32, 1.0, 96**0.5, 1.0),
        (ColumnDelta(torch.tensor([5]), torch.ones(1, 32)), 1.0, 1 / 48, 32**0.5, 1.0),
        (LowRankDelta(torch.eye(32)[:, :4], torch.eye(48)[:4]), 4 / 32, 4 / 48, 2.0, 4.0),
        (DenseDelta(torch.eye(32, 48)), 1.0, 32 / 48, 32**0.5, 32.0),
    ],
)
def test_deltas_by_hand(delta: object, rows: float, columns: float, size: float, rank: float) -> None:
    model = shared_model("llama")
    found = by_name(moved_by(edit(delta=delta), model))
    one = found[DOWN]
    assert (one.rows, one.columns, one.layer) == (pytest.approx(rows), pytest.approx(columns), 1)
    assert (one.delta, one.stable_rank) == (pytest.approx(size), pytest.approx(rank, rel=1e-3))
    assert one.relative == pytest.approx(size / float(model.state()[DOWN].detach().norm()))
    assert sum(other.delta for other in found.values()) == pytest.approx(size)


def test_parts_add_up() -> None:
    model = shared_model("llama")
    up, down = (edit(delta=DenseDelta(sign * torch.eye(32, 48))) for sign in (1, -1))
    assert by_name(moved_by(up + up, model))[DOWN].delta == pytest.approx(2 * 32**0.5)
    assert by_name(moved_by(up + down, model))[DOWN].delta == 0


def test_an_intervention_moves_what_the_edited_model_shows() -> None:
    original, other = tiny_model("gpt2"), tiny_model("gpt2", seed=3)
    patch = WeightPatch.between(original.state(), other.state())
    one = by_name(moved_by(Intervention(Spec("x", "removal"), weights=patch), original))
    two = by_name(moved_between(original, other))
    assert set(one) == set(two)
    for name, moved in one.items():
        assert moved.delta == pytest.approx(two[name].delta, rel=1e-5)
        assert (moved.rows, moved.norm) == (two[name].rows, two[name].norm)


def test_ablated_vectors_are_lines_of_their_blocks() -> None:
    model = shared_model("gpt2")
    found = {name: one for name, one in by_name(moved_by(ablate_vectors(model, [(2, 7)]), model)).items() if one.delta}
    (one,) = found.values()
    assert (one.layer, one.rows) == (2, pytest.approx(1 / 128))
    assert one.stable_rank == pytest.approx(1)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_parameter_of_a_block_is_counted_there(family: str) -> None:
    model = shared_model(family)
    found = by_name(moved_between(model, model))
    assert {one.layer for one in found.values()} == {*range(model.n_layers), None}
    for name, one in found.items():
        assert (one.layer is None) == (f".{one.layer}." not in name)
        assert (one.layer is None) == (not any(f".{n}." in name for n in range(model.n_layers)))


def test_a_tied_embedding_counts_once() -> None:
    assert sum("wte" in name or "lm_head" in name for name in by_name(moved_between(*[shared_model("gpt2")] * 2))) == 1


def test_stable_rank_is_that_of_singular_values(rng: torch.Generator) -> None:
    for shape in ((40, 7), (7, 40), (30, 30), (1, 9)):
        matrix = torch.randn(*shape, generator=rng)
        values = torch.linalg.svdvals(matrix)
        assert stable_rank(matrix) == pytest.approx(float((values / values[0]).square().sum()), rel=0.01)
    assert stable_rank(torch.outer(torch.randn(9, generator=rng), torch.ones(5)) * 1e-20) == pytest.approx(1)


def test_models_that_cannot_be_compared_say_why() -> None:
    original = shared_model("llama")
    assert "is missing or of another shape" in str(moved_between(original, tiny_model("llama", intermediate_size=24)))
    assert "parameters that the original lacks" in str(moved_between(original, shared_model("gpt2")))


def test_adapters_are_to_be_merged_first() -> None:
    from peft import LoraConfig, get_peft_model

    model = tiny_model("llama")
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        # peft asks transformers for a name that it is about to drop.
        warnings.simplefilter("ignore", FutureWarning)
        wrapped = get_peft_model(model.model, LoraConfig(target_modules=["q_proj"]))
    assert "merge adapters into the weights first" in str(
        moved_between(tiny_model("llama"), HookedModel(wrapped, model.tokenizer))
    )
