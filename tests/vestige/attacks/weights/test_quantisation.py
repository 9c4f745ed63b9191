"""Rounding: its bounds and fixed points, the levels, what is left out, and when a change survives it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hooked import ColumnDelta, Intervention, Spec, UnlearnData, VestigeError, WeightPatch
from probes import answer_probability
from tests.tiny import tiny_model
from tests.vestige.attacks.contract import AttackContract, facts
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.notes import notes_of
from vestige.attacks.weights.matrices import matrices_of
from vestige.attacks.weights.quantisation import (
    NF4_LEVELS,
    quantisation,
    quantised,
    round_to_nearest,
    round_to_nf4,
    rounded,
    steps_moved,
)

KINDS = ("int8", "int4", "nf4")


class TestQuantisation(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return quantisation(target, data, **settings)


class TestNF4(AttackContract):
    arch = "llama"

    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return quantisation(target, data, kind="nf4", embeddings=True, **settings)


def hard_rows(rng: torch.Generator) -> torch.Tensor:
    """Rows with an outlier, of zeros, of denormal numbers, of one value, and ordinary ones."""
    rows = torch.randn(8, 200, generator=rng)
    rows[0, 3] = 1e4
    rows[1] = 0
    rows[2] *= 1e-42
    rows[3] = -0.3
    return rows


@pytest.mark.parametrize("bits", range(2, 9))
def test_no_weight_moves_by_more_than_half_a_step(bits: int, rng: torch.Generator) -> None:
    rows = hard_rows(rng)
    step = rows.double().abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    error = (round_to_nearest(rows, bits=bits).double() - rows.double()).abs()
    assert (error <= step / 2 + 1e-7 * rows.double().abs() + 1e-45).all()
    # The bound is reached by some, or it would not be the bound.
    assert error[4:].max() > 0.45 * step[4:].min()


@pytest.mark.parametrize("bits", range(2, 9))
def test_there_are_no_more_values_than_bits_allow(bits: int, rng: torch.Generator) -> None:
    rows = torch.randn(3, 5000, generator=rng, dtype=torch.float64)
    for row, before in zip(round_to_nearest(rows, bits=bits), rows, strict=True):
        assert len(row.unique()) <= 2**bits - 1
        assert float(row.abs().max()) == pytest.approx(float(before.abs().max()), rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_rounding_twice_is_rounding_once(kind: Any, rng: torch.Generator) -> None:
    once = rounded(hard_rows(rng), kind)
    torch.testing.assert_close(rounded(once, kind), once, rtol=1e-6, atol=1e-44)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_matter_to_each_other_and_scale_is_taken_out(kind: Any, rng: torch.Generator) -> None:
    # Whole blocks of 64 to a row.
    rows = torch.randn(4, 128, generator=rng, dtype=torch.float64)
    scales = torch.tensor([1.0, 7.0, 1e-3, 1e5], dtype=torch.float64)[:, None]
    torch.testing.assert_close(rounded(rows * scales, kind), rounded(rows, kind) * scales)
    torch.testing.assert_close(rounded(-rows[:1], "int4"), -rounded(rows[:1], "int4"))


def test_the_levels_are_quantiles_of_a_normal_distribution() -> None:
    last = 0.9677083
    above = torch.special.ndtri(torch.linspace(last, 0.5, 9, dtype=torch.float64))[:-1]
    below = -torch.special.ndtri(torch.linspace(last, 0.5, 8, dtype=torch.float64))[:-1]
    levels = torch.cat([below, torch.zeros(1, dtype=torch.float64), above]).sort().values
    assert list(NF4_LEVELS) == pytest.approx((levels / levels.abs().max()).tolist(), abs=5e-7)
    assert len(NF4_LEVELS) == 16


def test_nf4_takes_the_nearest_level_times_the_largest_weight_of_a_block(rng: torch.Generator) -> None:
    rows = hard_rows(rng).double()
    flat, found = rows.flatten(), round_to_nf4(rows).flatten()
    for start in range(0, len(flat), 64):
        block = flat[start : start + 64]
        scale = block.abs().max()
        choices = torch.tensor(NF4_LEVELS, dtype=torch.float64) * scale
        nearest = (block[:, None] - choices).abs().min(-1).values
        torch.testing.assert_close((found[start : start + 64] - block).abs(), nearest, rtol=1e-9, atol=1e-50)


@pytest.mark.parametrize("ratio", [0.05, 0.1, 0.3, 0.7, 1.3])
def test_a_change_survives_as_often_as_it_is_long_in_steps(ratio: float, rng: torch.Generator) -> None:
    n = 40_000
    # Three steps to either side of zero, and one weight of seven, which sets the step.
    step = 3.0 / 7
    weights = (torch.rand(1, n, generator=rng, dtype=torch.float64) * 6 - 3) * step
    weights[0, 0] = 3.0
    changed = weights.clone()
    changed[0, 1:] += ratio * step
    moved = (round_to_nearest(changed, bits=4) - round_to_nearest(weights, bits=4))[0, 1:]
    assert float((moved.abs() > step / 2).double().mean()) == pytest.approx(min(1, ratio), abs=0.02)
    # What is lost of single changes is not lost of their sum.
    assert float(moved.mean()) == pytest.approx(ratio * step, rel=0.1)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gpt_neox"])
def test_a_row_is_what_computes_one_output(family: str) -> None:
    """One step per output: scaling what a neuron writes to does not change the rounding of its neighbours."""
    model = tiny_model(family)
    found = matrices_of(model)
    name = model.weight_name("mlp.out", 1)
    assert (name in found.transposed) == (family == "gpt2")
    assert found.rows(name).shape == (model.d_model, model.d_mlp)
    assert found.rows(name, found.rows(name)).shape == found.weights[name].shape
    with quantised(model, "int4").applied(model):
        for row in matrices_of(model).rows(name):
            values = (row / row.abs().max() * 7).tolist()
            assert values == pytest.approx([round(value) for value in values], abs=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "opt"])
def test_norms_biases_and_embeddings_are_left_alone_and_listed(family: str) -> None:
    model = tiny_model(family)
    before = {name: tensor.clone() for name, tensor in model.state().items()}
    made = quantised(model, "int8")
    left = made.spec.settings["left_out"]
    assert model.weight_name("embed") in left
    assert all(tensor.ndim < 2 or "emb" in name or "wte" in name or "wpe" in name or "lm_head" in name
               for name, tensor in before.items() if name in left)  # fmt: skip
    with made.applied(model) as view:
        now = view.state()
        changed = {name for name in before if not torch.equal(now[name], before[name])}
    assert changed == set(made.weights.deltas)  # type: ignore[union-attr]
    assert changed.isdisjoint(left)
    assert len(changed) == made.spec.settings["matrices"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state().items())
    whole = quantised(model, "int8", embeddings=True)
    assert whole.spec.settings["matrices"] > made.spec.settings["matrices"]
    with whole.applied(model) as view:
        assert not torch.equal(view.W_E, before[model.weight_name("embed")])


def test_what_is_in_force_is_rounded_together_and_edits_stay() -> None:
    model = tiny_model("llama", dtype=torch.float64)
    name = model.weight_name("mlp.out", 1)

    class Halve:
        def __call__(self, activation: torch.Tensor, hook: Any) -> torch.Tensor:
            return activation / 2

    patch = WeightPatch({name: ColumnDelta(torch.tensor([5]), torch.full((1, model.d_model), 3.0))})
    edited = Intervention(Spec("edit", "suppression"), weights=patch, edits={"blocks.1.hook_resid_post": Halve()})
    items = facts().forget
    with edited.applied(model) as view:
        target = Target("edit", "unlearned", view, view.raw, notes_of(view, facts()))
        found = quantisation(target, facts(), kind="int4")
        wanted = round_to_nearest(model.state()[name], bits=4)
        with quantised(view, "int4").applied(view) as twice:
            torch.testing.assert_close(model.state()[name], wanted, rtol=0, atol=1e-6)
            assert found.scores == pytest.approx(answer_probability(twice, items).tolist(), abs=1e-9)
            stripped = answer_probability(twice.raw, items).tolist()
        assert found.scores != pytest.approx(stripped, abs=1e-4)


def test_the_size_of_a_change_is_told_in_steps(rng: torch.Generator) -> None:
    model = tiny_model("llama", dtype=torch.float64)
    name, other = model.weight_name("mlp.out", 1), model.weight_name("mlp.out", 0)
    before = {key: tensor.clone() for key, tensor in model.state().items()}
    step = before[name].abs().amax(-1, keepdim=True) / 7
    after = {**before, name: before[name] + 0.25 * step, other: before[other].clone()}
    after[other][:, 3] += 5.0
    patch = WeightPatch.between(before, after)
    moved = steps_moved(model, patch)
    # A change of one neuron alone is large and has a median of 0.
    assert moved == {name: pytest.approx(0.25, rel=1e-4), other: 0}
    assert steps_moved(model, patch, kind="int8")[name] == pytest.approx(0.25 * 127 / 7, rel=1e-4)
    assert 0 < steps_moved(model, patch, kind="nf4")[name] < 1
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state().items())


def test_the_attack_says_what_it_rounded() -> None:
    model = tiny_model("gpt2")
    found = quantisation(Target("one", "original", model, model, notes_of(model, facts())), facts(), kind="int8")
    assert found.budget["kind"] == "int8"
    assert found.budget["matrices"] == 12
    assert "transformer.wte.weight" in found.budget["left_out"]


def test_errors_name_what_is_wrong() -> None:
    model = tiny_model("llama")
    with pytest.raises(VestigeError, match="kind is one of int8, int4, nf4, got 'fp4'"):
        quantised(model, "fp4")  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match="rounding keeps at least 2 bits, got 1"):
        round_to_nearest(torch.ones(1, 1), bits=1)
    module = model.model.get_submodule(model.block_part(0, "mlp.out"))
    module.weight = torch.nn.Parameter(torch.zeros(4, 4, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(VestigeError, match=r"'model.layers.0.mlp.down_proj.weight' is stored as torch.uint8"):
        quantised(model)
