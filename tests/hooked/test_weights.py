"""Weight patches: in force inside a block, and restored bit by bit whatever is left first."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hooked import ColumnDelta, DenseDelta, HookedModel, LowRankDelta, RowDelta, VestigeError, WeightPatch, ledger
from hooked.ledger import patched
from hooked.weights import hugging_face_name, parameters_of, shared_names
from tests.tiny import tiny_hugging_face, tiny_model

HEIGHT, WIDTH = 5, 4
NAME = "weight"


def linear(dtype: torch.dtype = torch.float32, seed: int = 0) -> nn.Module:
    module = nn.Linear(WIDTH, HEIGHT, dtype=dtype)
    rng = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        parameter.data.copy_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64) * 3)
    return module


def bits(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def same(module: nn.Module, before: dict[str, Tensor]) -> bool:
    """Whether every bit is the same, signs of zeros included."""
    return all(torch.equal(raw(value), raw(before[name])) for name, value in bits(module).items())


def raw(value: Tensor) -> Tensor:
    return value.reshape(-1).view(torch.uint8)


def make(kind: str, lines: list[int], seed: int) -> Any:
    rng = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=rng)

    rows = sorted({line % HEIGHT for line in lines})
    columns = sorted({line % WIDTH for line in lines})
    return {
        "row": lambda: RowDelta(torch.tensor(rows, dtype=torch.long), noise(len(rows), WIDTH)),
        "column": lambda: ColumnDelta(torch.tensor(columns, dtype=torch.long), noise(len(columns), HEIGHT)),
        "low_rank": lambda: LowRankDelta(noise(HEIGHT, 2), noise(2, WIDTH)),
        "dense": lambda: DenseDelta(noise(HEIGHT, WIDTH)),
    }[kind]()


def expanded(delta: Any) -> Tensor:
    """What a delta adds, written out the slow way."""
    full = torch.zeros(HEIGHT, WIDTH)
    if isinstance(delta, RowDelta):
        for k, i in enumerate(delta.index.tolist()):
            full[i] += delta.values[k]
    elif isinstance(delta, ColumnDelta):
        for k, i in enumerate(delta.index.tolist()):
            full[:, i] += delta.values[k]
    elif isinstance(delta, LowRankDelta):
        full = delta.left @ delta.right
    else:
        full = delta.values
    return full


deltas = st.builds(
    make,
    st.sampled_from(["row", "column", "low_rank", "dense"]),
    st.lists(st.integers(0, 9), max_size=4),
    st.integers(0, 99),
)


@settings(max_examples=150)
@given(
    st.lists(deltas, min_size=1, max_size=4), st.randoms(use_true_random=False), st.sampled_from(["f32", "bf16", "f64"])
)
def test_overlapping_patches_leave_in_any_order_and_restore_every_bit(parts: list[Any], random: Any, kind: str) -> None:
    """B7: rows, columns, low-rank and dense deltas over one another."""
    dtype = {"f32": torch.float32, "bf16": torch.bfloat16, "f64": torch.float64}[kind]
    module = linear(dtype)
    before = bits(module)
    contexts = [patched(module, WeightPatch({NAME: delta})) for delta in parts]
    for context in contexts:
        context.__enter__()
    left = list(range(len(parts)))
    while left:
        wanted = before[NAME].to(torch.promote_types(dtype, torch.float32))
        for i in left:
            wanted = wanted + expanded(parts[i]).to(wanted)
        assert torch.equal(module.state_dict()[NAME], wanted.to(dtype))
        gone = random.choice(left)
        left.remove(gone)
        contexts[gone].__exit__(None, None, None)
    assert same(module, before)
    assert not ledger._LEDGERS


@pytest.mark.parametrize("kind", ["row", "column", "low_rank", "dense"])
def test_an_exception_inside_restores_every_bit(kind: str) -> None:
    """B7, I6."""
    module = linear()
    before = bits(module)

    def fail() -> None:
        assert not same(module, before)
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"), patched(module, WeightPatch({NAME: make(kind, [1, 3], 0)})):
        fail()
    assert same(module, before)


def test_one_patch_may_be_in_force_twice() -> None:
    module = linear()
    before = bits(module)
    patch = WeightPatch({NAME: make("row", [2], 0), "bias": DenseDelta(torch.ones(HEIGHT))})
    with patched(module, patch):
        once = bits(module)
        with patched(module, WeightPatch({NAME: make("row", [2], 1)})):
            between = bits(module)
            with patched(module, patch):
                assert torch.equal(module.state_dict()["bias"], before["bias"] + 1 + 1)
            assert same(module, between)
        assert same(module, once)
    assert same(module, before)


def test_a_failure_while_entering_leaves_the_weights_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """B7: memory may run out between two parameters."""
    module = linear()
    before = bits(module)
    inner = ledger._sum

    def fails(base: Tensor, parts: list[Any]) -> Tensor:
        if base.ndim == 1 and parts:
            raise MemoryError
        return inner(base, parts)

    monkeypatch.setattr(ledger, "_sum", fails)
    patch = WeightPatch({NAME: make("dense", [], 0), "bias": DenseDelta(torch.ones(HEIGHT))})
    with pytest.raises(MemoryError), patched(module, patch):
        pass
    assert same(module, before)
    assert not ledger._LEDGERS


def test_two_wrappers_of_the_same_parameters_share_their_ledger() -> None:
    """B7: the parameter counts, not the module through which it was reached."""
    module = linear()
    outer = nn.Sequential(module)
    before = bits(module)
    first = patched(outer, WeightPatch({f"0.{NAME}": make("dense", [], 1)}))
    second = patched(module, WeightPatch({NAME: make("row", [1], 2)}))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.equal(module.state_dict()[NAME], before[NAME] + expanded(make("row", [1], 2)))
    second.__exit__(None, None, None)
    assert same(module, before)


def test_rows_of_a_vector_and_empty_deltas() -> None:
    module = linear()
    before = bits(module)
    none = torch.empty(0, dtype=torch.long)
    patch = WeightPatch(
        {"bias": RowDelta(torch.tensor([1, 3]), torch.tensor([5.0, 7.0])), NAME: RowDelta(none, torch.empty(0, WIDTH))}
    )
    with patched(module, patch):
        assert (module.state_dict()["bias"] - before["bias"]).round().tolist() == [0, 5, 0, 7, 0]
        assert torch.equal(module.state_dict()[NAME], before[NAME])
    assert same(module, before)


def test_an_empty_patch_and_a_zero_delta_are_bitwise_no_ops() -> None:
    """I1."""
    module = linear()
    before = bits(module)
    for patch in (WeightPatch(), WeightPatch({NAME: DenseDelta(torch.zeros(HEIGHT, WIDTH))})):
        with patched(module, patch):
            assert all(torch.equal(value, before[name]) for name, value in bits(module).items())


def test_only_the_patched_lines_are_kept_for_a_row_patch() -> None:
    """A patch of a few rows costs a few rows of memory."""
    module = linear()
    with patched(module, WeightPatch({NAME: make("row", [1, 3], 0)})):
        (kept,) = ledger._LEDGERS.values()
        assert kept.whole is None
        assert sorted(kept.lines) == [1, 3]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_between_turns_one_set_of_sixteen_bit_weights_into_the_other_exactly(dtype: torch.dtype) -> None:
    before, after = linear(dtype, seed=0), linear(dtype, seed=1)
    patch = WeightPatch.between(before.state_dict(), after.state_dict())
    wanted, original = bits(after), bits(before)
    with patched(before, patch):
        assert same(before, wanted)
    assert same(before, original)
    assert all(isinstance(delta, DenseDelta) for delta in patch.deltas.values())


def test_between_is_exact_to_the_last_place_in_float32_and_leaves_out_what_is_equal() -> None:
    before, after = linear(seed=0), linear(seed=0)
    after.weight.data[2] *= 1.01
    patch = WeightPatch.between(before.state_dict(), after.state_dict())
    assert list(patch.deltas) == [NAME]
    with patched(before, patch):
        torch.testing.assert_close(before.weight, after.weight, rtol=2e-7, atol=0)
    assert patch.norms()[NAME] == pytest.approx(float((after.weight - before.weight).norm()), rel=1e-6)
    assert patch.nbytes == HEIGHT * WIDTH * 4


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ({"other": torch.ones(2)}, "parameter 'other' is not in the original"),
        ({NAME: torch.ones(2)}, r"parameter 'weight' has shape \(2,\), the original has \(5, 4\)"),
    ],
)
def test_between_refuses_what_has_no_counterpart(after: dict[str, Tensor], message: str) -> None:
    with pytest.raises(VestigeError, match=message):
        WeightPatch.between(linear().state_dict(), after)


def test_between_refuses_changed_integers() -> None:
    with pytest.raises(VestigeError, match=r"'n' holds torch.int64; only floating point weights have a delta"):
        WeightPatch.between({"n": torch.tensor([1])}, {"n": torch.tensor([2])})


@pytest.mark.parametrize(
    ("delta", "message"),
    [
        (RowDelta(torch.tensor([5]), torch.ones(1, WIDTH)), "RowDelta of 'weight' does not fit a parameter of shape"),
        (RowDelta(torch.tensor([-1]), torch.ones(1, WIDTH)), "RowDelta"),
        (RowDelta(torch.tensor([1, 1]), torch.ones(2, WIDTH)), "RowDelta"),
        (RowDelta(torch.tensor([1]), torch.ones(1, HEIGHT)), "RowDelta"),
        (ColumnDelta(torch.tensor([4]), torch.ones(1, HEIGHT)), "ColumnDelta"),
        (ColumnDelta(torch.tensor([1]), torch.ones(1, WIDTH)), "ColumnDelta"),
        (LowRankDelta(torch.ones(WIDTH, 2), torch.ones(2, HEIGHT)), "LowRankDelta"),
        (DenseDelta(torch.ones(WIDTH, HEIGHT)), r"DenseDelta of 'weight' does not fit a parameter of shape \(5, 4\)"),
    ],
)
def test_a_delta_that_does_not_fit_is_refused_before_anything_changes(delta: Any, message: str) -> None:
    module = linear()
    before = bits(module)
    with (
        pytest.raises(VestigeError, match=message),
        patched(module, WeightPatch({"bias": DenseDelta(torch.ones(5)), NAME: delta})),
    ):
        pass
    assert same(module, before)


@pytest.mark.parametrize(
    "build",
    [
        lambda: RowDelta(torch.tensor([1, 2]), torch.ones(1, WIDTH)),
        lambda: LowRankDelta(torch.ones(HEIGHT, 2), torch.ones(3, WIDTH)),
    ],
)
def test_the_parts_of_a_delta_fit_each_other(build: Any) -> None:
    """Refused when the delta is applied, or already when it is built where shapes are checked at run time."""
    with pytest.raises((VestigeError, TypeError)), patched(linear(), WeightPatch({NAME: build()})):
        pass


def test_a_parameter_that_does_not_exist_is_named() -> None:
    with (
        pytest.raises(VestigeError, match="the model has no parameter 'wait'"),
        patched(linear(), WeightPatch({"wait": DenseDelta(torch.ones(1))})),
    ):
        pass


def test_integers_and_weights_that_are_elsewhere_are_refused() -> None:
    module = linear()
    module.register_buffer("table", torch.zeros(2, dtype=torch.long))
    with (
        pytest.raises(VestigeError, match=r"'table' is stored as torch.int64"),
        patched(module, WeightPatch({"table": DenseDelta(torch.ones(2))})),
    ):
        pass
    with (
        pytest.raises(
            VestigeError, match="'weight' is offloaded; weight patches need floating point weights in memory"
        ),
        patched(linear().to("meta"), WeightPatch({NAME: DenseDelta(torch.ones(HEIGHT, WIDTH))})),
    ):
        pass


def test_buffers_are_part_of_a_patch() -> None:
    """B12."""
    module = nn.Sequential(linear(), nn.BatchNorm1d(HEIGHT)).eval()
    before = bits(module)
    with patched(module, WeightPatch({"1.running_mean": DenseDelta(torch.ones(HEIGHT))})):
        assert torch.equal(module.state_dict()["1.running_mean"], before["1.running_mean"] + 1)
    assert same(module, before)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "opt", "bloom"])
def test_tied_embeddings_are_patched_only_when_that_is_said(family: str, ids: Tensor) -> None:
    """B4, B7: one storage; naming one name would silently change the other."""
    model = tiny_model(family)
    embed, head = model.weight_name("embed"), model.weight_name("unembed")
    assert shared_names(model.model, head) == (embed,)
    before = {name: value.clone() for name, value in model.state().items()}
    delta = RowDelta(torch.tensor([4]), torch.ones(1, 32))
    for name, other in ((embed, head), (head, embed)):
        with (
            pytest.raises(VestigeError, match=f"'{name}' is tied to '{other}', so patching it changes both"),
            patched(model.model, WeightPatch({name: delta})),
        ):
            pass
        with patched(model.model, WeightPatch({name: delta}, tied=True)):
            assert torch.equal(model.W_E[4], before[embed][4] + 1)
            assert torch.equal(model.W_U[:, 4], before[head][4] + 1)
            assert model.W_E.untyped_storage().data_ptr() == model.W_U.untyped_storage().data_ptr()
    assert all(torch.equal(value, before[name]) for name, value in model.state().items())


def test_a_tied_parameter_under_both_names_counts_once_and_contradictions_are_refused() -> None:
    """B4: a record of all names of a model holds a tied parameter twice."""
    model = tiny_model("gpt2")
    before = {name: value.clone() for name, value in model.state().items()}
    after = {name: value + 1 if value.is_floating_point() else value for name, value in before.items()}
    patch = WeightPatch.between(before, after)
    with patched(model.model, patch):
        assert all(torch.equal(p, after[name]) for name, p in model.model.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state().items())
    wrong = {
        model.weight_name("embed"): DenseDelta(torch.ones(99, 32)),
        model.weight_name("unembed"): DenseDelta(torch.zeros(99, 32)),
    }
    with (
        pytest.raises(VestigeError, match="are one tied parameter; give its delta once"),
        patched(model.model, WeightPatch(wrong, tied=True)),
    ):
        pass


@pytest.mark.parametrize("family", ["gpt2", "llama", "phi3", "opt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_value_vectors_are_replaced_whatever_the_layout(family: str, dtype: torch.dtype, rng: torch.Generator) -> None:
    """Conv1D stores them as rows, Linear as columns."""
    model = tiny_model(family, dtype=dtype)
    before = {name: value.clone() for name, value in model.state().items()}
    new = {(layer, n): torch.randn(32, generator=rng).to(dtype) for layer, n in ((0, 3), (2, 0), (0, 40), (-1, 7))}
    patch = model.value_patch(new)
    assert {type(delta) for delta in patch.deltas.values()} == {RowDelta if family == "gpt2" else ColumnDelta}
    with patched(model.model, patch):
        for (layer, neuron), vector in new.items():
            torch.testing.assert_close(model.value_vectors(layer)[neuron], vector, rtol=1e-6, atol=1e-6)
        changed = {name for name, value in model.state().items() if not torch.equal(value, before[name])}
        assert changed == set(patch.deltas) == {model.weight_name("mlp.out", 0), model.weight_name("mlp.out", 2)}
    assert all(torch.equal(value, before[name]) for name, value in model.state().items())


def test_a_value_vector_set_to_zero_is_zero_exactly() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        model = tiny_model(dtype=dtype)
        with patched(model.model, model.value_patch({(1, 5): torch.zeros(32)})):
            assert not model.value_vectors(1)[5].any()
            assert model.value_vectors(1)[6].any()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ({(0, 48): torch.zeros(32)}, "layer 0 has neurons 0 to 47, got 48 to 48"),
        ({(0, 3): torch.zeros(32), (0, -1): torch.zeros(32)}, "layer 0 has neurons 0 to 47, got -1 to 3"),
        ({(3, 0): torch.zeros(32)}, "no layer 3 in a 3-layer"),
        ({(1, 2): torch.zeros(31)}, r"value vector \(1, 2\) has shape \(31,\), needed \(32,\)"),
        ({(1, 2): torch.zeros(1, 32)}, r"value vector \(1, 2\) has shape \(1, 32\), needed \(32,\)"),
    ],
)
def test_neurons_that_do_not_exist_are_refused(model: HookedModel, rows: Any, message: str) -> None:
    with pytest.raises(VestigeError, match=message):
        model.value_patch(rows)
    assert model.value_patch({}).deltas == {}


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("base_model.model.model.layers.0.mlp.down_proj.base_layer.weight", "model.layers.0.mlp.down_proj.weight"),
        (
            "model.layers.0._original_component.mlp._original_component.down_proj.weight",
            "model.layers.0.mlp.down_proj.weight",
        ),
        ("model.layers.0.mlp.down_proj.weight", "model.layers.0.mlp.down_proj.weight"),
    ],
)
def test_names_lose_what_wrappers_add(name: str, plain: str) -> None:
    """B2."""
    assert hugging_face_name(name) == plain


def test_parameters_are_listed_under_every_name() -> None:
    """B4."""
    model = tiny_hugging_face("gpt2")
    names = parameters_of(model)
    assert names["lm_head.weight"] is names["transformer.wte.weight"]
    assert set(names) == set(dict(model.named_parameters(remove_duplicate=False)))


def test_a_patch_may_be_in_force_under_no_grad_and_inference_mode() -> None:
    module = linear()
    before = bits(module)
    patch = WeightPatch({NAME: make("dense", [], 0)})
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        stack.enter_context(patched(module, patch))
        assert not same(module, before)
    assert same(module, before)
    assert all(p.requires_grad for p in module.parameters())
