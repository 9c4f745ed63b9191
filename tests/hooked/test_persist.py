"""Interventions on disk: a round trip loses nothing, a file cannot name code, and a baked model is an ordinary one."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import hooked.persist
from hooked import (
    ColumnDelta,
    DenseDelta,
    HookedModel,
    Intervention,
    LowRankDelta,
    RowDelta,
    Spec,
    VestigeError,
    WeightPatch,
)
from hooked.hooks import HookContext, Request
from tests.tiny import TIED, shared_model, tiny_model


@dataclass(frozen=True, eq=False)
class Scale:
    """An edit as the methods of `interventions` define them: a frozen dataclass with a call."""

    factor: float
    vector: Tensor
    floor: float = float("-inf")
    names: tuple[str, ...] = ("a", "b")
    table: dict[str, Any] | None = None
    dtype: torch.dtype = torch.float32

    def __call__(self, activation: Tensor, /, hook: HookContext) -> Tensor:
        return activation * self.factor + self.vector.to(activation)


@dataclass(frozen=True)
class Everyone:
    """A gate."""

    def __call__(self, raw: HookedModel, request: Request, /) -> Tensor:
        return torch.ones(len(request.ids), dtype=torch.bool)


@dataclass(frozen=True)
class Sharpen:
    """A logit edit."""

    by: float

    def __call__(self, logits: Tensor, request: Request, /) -> Tensor:
        return logits * self.by


@pytest.fixture
def storable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the classes of this file stand in for those of `interventions`."""
    monkeypatch.setattr(hooked.persist, "_PACKAGES", ("hooked", "probes", "sae", "interventions", "tests"))


def full(model: HookedModel) -> Intervention:
    shape = model.state()[model.weight_name("attn.o", 0)].shape
    weights: dict[str, Any] = {
        model.weight_name("mlp.out", 1): ColumnDelta(torch.tensor([3, 9]), torch.ones(2, 32)),
        model.weight_name("mlp.in", 1): RowDelta(torch.tensor([0]), torch.ones(1, 32)),
        model.weight_name("attn.o", 0): LowRankDelta(torch.ones(shape[0], 1), torch.ones(1, shape[1])),
        model.weight_name("attn.o", 1): DenseDelta(torch.ones(shape)),
    }
    settings = {"top": 0.03, "layers": (0, 1), "nothing": None, "deep": {"a": [1, "b"]}}
    edit = Scale(0.5, torch.arange(32.0), table={"x": 1, "y": [torch.ones(2), None, True]}, dtype=torch.bfloat16)
    return Intervention(
        Spec("everything", "suppression", ("forget",), "arXiv:0", settings),
        weights=WeightPatch(weights, tied=True),
        edits={"resid_post.1": edit, ("mlp_out", 2): Scale(2.0, torch.zeros(32), float("nan"))},
        embedding=Scale(1.5, torch.ones(32)),
        logits=Sharpen(2.0),
        gate=Everyone(),
    )


@pytest.mark.usefixtures("storable")
def test_a_round_trip_gives_the_same_intervention(untouched: HookedModel, ids: Tensor, tmp_path: Path) -> None:
    """I4: spec, kinds of delta, tensors, special floats, tuples, dtypes; and the same logits."""
    original = full(untouched)
    original.save(tmp_path / "saved")
    loaded = Intervention.load(tmp_path / "saved")
    assert loaded.spec == original.spec
    assert loaded.spec.fingerprint == original.spec.fingerprint
    assert loaded.points == original.points
    assert list(loaded.edits) == ["resid_post.1", ("mlp_out", 2)]
    edit: Any = loaded.edits["resid_post.1"]
    assert (edit.factor, edit.floor, edit.names, edit.dtype) == (0.5, float("-inf"), ("a", "b"), torch.bfloat16)
    assert torch.equal(edit.table["y"][0], torch.ones(2))
    assert edit.table["y"][1:] == (None, True)
    assert loaded.weights is not None
    assert original.weights is not None
    assert loaded.weights.tied
    for name, delta in original.weights.deltas.items():
        other = loaded.weights.deltas[name]
        assert type(other) is type(delta)
        assert all(torch.equal(a, b) for a, b in zip(vars(delta).values(), vars(other).values(), strict=True))
    with original.applied(untouched) as view:
        wanted, text = view.logits(ids), view.generate("t4 t5", max_new_tokens=4)
    with loaded.applied(untouched) as view:
        assert torch.equal(view.logits(ids), wanted)
        assert view.generate("t4 t5", max_new_tokens=4) == text


@pytest.mark.usefixtures("storable")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.bool])
def test_tensors_keep_their_dtype_and_bits(tmp_path: Path, dtype: torch.dtype) -> None:
    tensor = torch.tensor([0, 1, 2, 3]).to(dtype)
    Intervention(Spec("x", "attack"), edits={"resid_post.0": Scale(1.0, tensor)}).save(tmp_path / "x")
    loaded: Any = Intervention.load(tmp_path / "x").edits["resid_post.0"]
    assert loaded.vector.dtype == dtype
    assert torch.equal(loaded.vector, tensor)


@pytest.mark.usefixtures("storable")
def test_views_and_shared_tensors_are_saved_as_their_own_numbers(tmp_path: Path) -> None:
    big = torch.arange(12.0).reshape(3, 4)
    edits = {"resid_post.0": Scale(1.0, big[:, 1]), "resid_post.1": Scale(1.0, big.T)}
    Intervention(Spec("x", "attack"), edits=edits).save(tmp_path / "x")
    loaded: Any = Intervention.load(tmp_path / "x").edits
    assert torch.equal(loaded["resid_post.0"].vector, big[:, 1])
    assert torch.equal(loaded["resid_post.1"].vector, big.T)


def test_the_files_are_json_and_safetensors(model: HookedModel, tmp_path: Path) -> None:
    Intervention(Spec("x", "removal"), weights=model.value_patch({(0, 1): torch.zeros(32)})).save(tmp_path / "x")
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["intervention.json", "tensors.safetensors"]
    assert json.loads((tmp_path / "x" / "intervention.json").read_text())["format"] == 1
    assert len(load_file(tmp_path / "x" / "tensors.safetensors")) == 2
    assert list(tmp_path.iterdir()) == [tmp_path / "x"]


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"edits": {"resid_post.0": lambda a, hook: a}}, r"intervention.edits.0 is a .*lambda.* without a data form"),
        ({"logits": torch.sigmoid}, r"intervention.logits is a .*sigmoid. without a data form"),
        ({"gate": Everyone()}, r"intervention.gate is a 'Everyone' without a data form"),
    ],
)
def test_what_has_no_data_form_is_refused_and_nothing_is_written(tmp_path: Path, part: Any, message: str) -> None:
    with pytest.raises(VestigeError, match=message) as caught:
        Intervention(Spec("x", "attack"), **part).save(tmp_path / "x")
    assert "so it cannot be saved; use the edits of interventions or sae" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_class_inside_a_function_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hooked.persist, "_PACKAGES", ("tests",))

    @dataclass(frozen=True)
    class Local:
        def __call__(self, activation: Tensor, /, hook: HookContext) -> Tensor:
            return activation

    with pytest.raises(VestigeError, match="without a data form"):
        Intervention(Spec("x", "attack"), edits={"resid_post.0": Local()}).save(tmp_path / "x")


def test_a_folder_that_holds_something_is_refused(model: HookedModel, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    intervention = Intervention(Spec("x", "removal"), weights=WeightPatch())
    for call in (lambda: intervention.save(tmp_path), lambda: intervention.bake(model, tmp_path)):
        with pytest.raises(VestigeError, match="is not an empty folder; choose a new one"):
            call()
    with pytest.raises(VestigeError, match="is not an empty folder"):
        intervention.save(tmp_path / "notes.txt")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "empty").mkdir()
    intervention.save(tmp_path / "empty")
    assert Intervention.load(tmp_path / "empty").spec == intervention.spec
    intervention.save(tmp_path / "deep" / "er")
    assert Intervention.load(tmp_path / "deep" / "er").points == ("weights",)


MALICIOUS = [
    "os:system",
    "builtins:eval",
    "subprocess:Popen",
    "hooked.loading:load_pretrained",
    "hooked.loading:Path",
    "hooked.model:HookedModel",
    "hooked.persist:os.system",
    "hooked.persist:Any",
    "hooked.module:nn",
    "tests.hooked.test_persist:Scale",
    "hookedx:Spec",
    "hooked.nothing:Spec",
    "hooked.intervention:Nothing",
    "hooked:Spec",
    "",
    "Spec",
    "hooked..:x",
]


@pytest.mark.parametrize("path", MALICIOUS)
def test_a_file_cannot_name_other_code(tmp_path: Path, path: str) -> None:
    """S15: only value classes of Vestige's own packages are built, under the module that defines them."""
    bad = {"class": path, "fields": {"name": "touch /tmp/owned"}}
    for tree in (bad, {"class": "hooked.intervention:Intervention", "fields": {"spec": bad}}):
        folder = tmp_path / str(id(tree))
        folder.mkdir()
        (folder / "intervention.json").write_text(json.dumps({"format": 1, "intervention": tree}))
        save_file({}, folder / "tensors.safetensors")
        with pytest.raises(VestigeError, match="the saved intervention names the class") as caught:
            Intervention.load(folder)
        assert "\n" not in str(caught.value)


def test_loading_in_a_new_process_imports_only_what_the_file_needs(model: HookedModel, tmp_path: Path) -> None:
    """Nothing is unpickled, and the classes are found again."""
    Intervention(Spec("x", "removal"), weights=model.value_patch({(0, 1): torch.zeros(32)})).save(tmp_path / "x")
    code = f"""
import sys
from hooked import Intervention
loaded = Intervention.load({str(tmp_path / "x")!r})
print(loaded.spec.name, loaded.spec.fingerprint, "transformer_lens" in sys.modules)
"""
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert out == ["x", Spec("x", "removal").fingerprint, "False"]


def write(folder: Path, tree: Any, tensors: bytes | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "intervention.json").write_text(tree if isinstance(tree, str) else json.dumps(tree))
    save_file({}, folder / "tensors.safetensors")
    if tensors is not None:
        (folder / "tensors.safetensors").write_bytes(tensors)
    return folder


SPEC = {"class": "hooked.intervention:Spec", "fields": {"name": "x", "intent": "removal"}}


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ("{broken", "cannot be read as an intervention: Expecting property name"),
        ("[" * 100_000, "cannot be read as an intervention"),
        ([], "has format None; this version reads format 1"),
        ({"format": 2}, "has format 2; this version reads format 1"),
        ({"format": 1}, "holds a NoneType, not an intervention"),
        ({"format": 1, "intervention": SPEC}, "holds a Spec, not an intervention"),
        ({"format": 1, "intervention": {"class": SPEC["class"]}}, "is damaged: KeyError: 'fields'"),
        ({"format": 1, "intervention": {"class": SPEC["class"], "fields": {"nome": 1}}}, "is damaged: TypeError"),
        ({"format": 1, "intervention": {"class": SPEC["class"], "fields": []}}, "is damaged: AttributeError"),
        ({"format": 1, "intervention": {"tensor": "w"}}, "misses the tensor 'w'"),
        ({"format": 1, "intervention": {"dtype": "load"}}, "names the dtype 'load'"),
        ({"format": 1, "intervention": {"float": "many"}}, "is damaged: ValueError"),
        ({"format": 1, "intervention": {"dict": [[1]]}}, "is damaged: ValueError"),
        ({"format": 1, "intervention": {"tuple": 3}}, "is damaged: TypeError"),
        (
            {"format": 1, "intervention": {"class": SPEC["class"], "fields": {"name": "x", "intent": "evil"}}},
            "intent is 'removal', 'suppression' or 'attack'",
        ),
    ],
)
def test_damaged_text_is_refused_in_one_line(tmp_path: Path, tree: Any, message: str) -> None:
    with pytest.raises(VestigeError, match=message) as caught:
        Intervention.load(write(tmp_path / "x", tree))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "pickle"])
def test_damaged_tensors_are_refused_in_one_line(model: HookedModel, tmp_path: Path, damage: str) -> None:
    """S9, S15."""
    Intervention(Spec("x", "removal"), weights=model.value_patch({(0, 1): torch.zeros(32)})).save(tmp_path / "x")
    path = tmp_path / "x" / "tensors.safetensors"
    good = path.read_bytes()
    path.write_bytes({"cut": good[:-9], "flip": b"\xff" + good[1:], "empty": b"", "pickle": b"\x80\x04N."}[damage])
    with pytest.raises(VestigeError, match=r"tensors.safetensors' is damaged") as caught:
        Intervention.load(tmp_path / "x")
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(model: HookedModel, tmp_path: Path) -> None:
    with pytest.raises(VestigeError, match=r"is not a saved intervention: intervention.json is missing"):
        Intervention.load(tmp_path)
    Intervention(Spec("x", "removal"), weights=WeightPatch()).save(tmp_path / "x")
    (tmp_path / "x" / "tensors.safetensors").unlink()
    with pytest.raises(VestigeError, match=r"is not a saved intervention: tensors.safetensors is missing"):
        Intervention.load(tmp_path / "x")


@pytest.mark.parametrize("family", ["llama", "gpt2", "phi3", "gemma2"])
def test_a_baked_folder_is_an_ordinary_model_with_the_views_logits(family: str, ids: Tensor, tmp_path: Path) -> None:
    """B3, I6: and the model itself keeps its bits."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = tiny_model(family)
    before = {name: value.clone() for name, value in model.state().items()}
    rows: Any = {model.weight_name("unembed"): RowDelta(torch.tensor([5]), torch.ones(1, 32))}
    rows |= model.value_patch({(1, 3): torch.zeros(32), (0, 7): torch.ones(32)}).deltas
    intervention = Intervention(Spec("x", "removal"), weights=WeightPatch(rows, tied=True))
    intervention.bake(model, tmp_path / "baked")
    assert all(torch.equal(value, before[name]) for name, value in model.state().items())
    with intervention.applied(model) as view:
        wanted = view.logits(ids)
    native = AutoModelForCausalLM.from_pretrained(
        tmp_path / "baked", attn_implementation=model.config._attn_implementation
    )
    assert torch.equal(native(ids).logits, wanted)
    tied = native.get_input_embeddings().weight is native.get_output_embeddings().weight
    assert tied == (family in TIED)
    assert AutoTokenizer.from_pretrained(tmp_path / "baked")("t4 t5")["input_ids"] == [4, 5]
    again = HookedModel.from_pretrained(tmp_path / "baked", attn_implementation=model.config._attn_implementation)
    assert torch.equal(again.logits(ids), wanted)
    assert again.name == str(tmp_path / "baked")
    assert [path.name for path in tmp_path.iterdir()] == ["baked"]


def test_baking_keeps_sixteen_bits(ids: Tensor, tmp_path: Path) -> None:
    model = tiny_model(dtype=torch.bfloat16)
    intervention = Intervention(Spec("x", "removal"), weights=model.value_patch({(1, 3): torch.zeros(32)}))
    intervention.bake(model, tmp_path / "baked")
    again = HookedModel.from_pretrained(tmp_path / "baked", dtype="auto")
    assert again.dtype == torch.bfloat16
    with intervention.applied(model) as view:
        assert torch.equal(again.logits(ids), view.logits(ids))


@pytest.mark.usefixtures("storable")
def test_what_weights_cannot_carry_is_not_baked(tmp_path: Path) -> None:
    model = shared_model()
    with pytest.raises(VestigeError, match="'everything' acts through edits and embedding and logits and gate"):
        full(model).bake(model, tmp_path / "x")
    with pytest.raises(VestigeError, match="'empty' acts through nothing"):
        Intervention(Spec("empty", "removal")).bake(model, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_baking_through_a_view_takes_its_weights_and_refuses_its_edits(ids: Tensor, tmp_path: Path) -> None:
    """What the view adds may not be lost silently."""
    model = shared_model()
    first = Intervention(Spec("first", "removal"), weights=model.value_patch({(0, 1): torch.zeros(32)}))
    second = Intervention(Spec("second", "removal"), weights=model.value_patch({(2, 1): torch.zeros(32)}))
    edits = Intervention(Spec("edits", "suppression"), edits={"resid_post.0": lambda a, hook: a})
    with first.applied(model) as view:
        second.bake(view, tmp_path / "both")
        with second.applied(view) as both:
            wanted = both.logits(ids)
    assert torch.equal(HookedModel.from_pretrained(tmp_path / "both").logits(ids), wanted)
    with edits.applied(model) as view, pytest.raises(VestigeError, match="'edits' acts through edits"):
        second.bake(view, tmp_path / "lost")


def test_an_interrupted_bake_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model()

    def fails(folder: Path) -> None:
        folder.mkdir()
        (folder / "half.safetensors").write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(model.model, "save_pretrained", fails)
    with pytest.raises(KeyboardInterrupt):
        Intervention(Spec("x", "removal"), weights=WeightPatch()).bake(model, tmp_path / "x")
    assert list(tmp_path.iterdir()) == []
