"""Loading from a folder: what is there is loaded as it is, and what is not is said in one line."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hooked import HookedModel, VestigeError
from tests.tiny import FAMILIES, tiny_hugging_face, tiny_tokenizer


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoint") / "llama"
    tiny_hugging_face("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def copy(checkpoint: Path, tmp_path: Path) -> Path:
    """A checkpoint to damage."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_loads_with_the_logits_it_was_saved_with(family: str, tmp_path: Path, ids: Tensor) -> None:
    """B1: bit by bit."""
    native = tiny_hugging_face(family)
    native.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    model = HookedModel.from_pretrained(str(tmp_path), attn_implementation=native.config._attn_implementation)
    assert torch.equal(model.logits(ids), native(ids).logits)
    assert not model.model.training
    assert model.name == str(tmp_path)
    assert model.tokenize("t4 t5").ids.tolist() == [[1, 4, 5]]


def test_a_path_object_and_a_home_folder_are_folders(
    checkpoint: Path, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(checkpoint.parent))
    wanted = HookedModel.from_pretrained(checkpoint).logits(ids)
    assert torch.equal(HookedModel.from_pretrained("~/llama").logits(ids), wanted)


def test_sixteen_bit_weights_become_float32_with_a_warning(tmp_path: Path) -> None:
    """B6."""
    tiny_hugging_face("llama", dtype=torch.float16).save_pretrained(tmp_path)
    with pytest.warns(
        UserWarning, match=r"is stored as torch.float16 and is loaded as float32; pass dtype='auto'"
    ) as seen:
        model = HookedModel.from_pretrained(tmp_path)
    assert model.dtype == torch.float32
    # It points at the caller's line, or at the checker around it where shapes are checked at run time.
    assert seen[0].filename == __file__ or "jaxtyping" in seen[0].filename
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert HookedModel.from_pretrained(tmp_path, dtype="auto").dtype == torch.float16
        assert HookedModel.from_pretrained(tmp_path, dtype="float32").dtype == torch.float32
        assert HookedModel.from_pretrained(tmp_path, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_a_float32_checkpoint_loads_without_a_warning(checkpoint: Path) -> None:
    assert HookedModel.from_pretrained(checkpoint).dtype == torch.float32


def test_a_folder_without_a_tokenizer_has_none(tmp_path: Path, ids: Tensor) -> None:
    """B9: transformers makes up an empty one for some architectures, which turns every text into nothing."""
    for family in ("gpt2", "gemma2", "llama"):
        folder = tmp_path / family
        tiny_hugging_face(family).save_pretrained(folder)
        model = HookedModel.from_pretrained(folder)
        assert model.tokenizer is None
        assert model.logits(ids).shape == (2, 7, 99)
        with pytest.raises(VestigeError, match="has no tokenizer"):
            model.logits("t4")
    given = HookedModel.from_pretrained(tmp_path / "gpt2", tokenizer=tiny_tokenizer())
    assert given.tokenize("t4").ids.tolist() == [[1, 4]]


def test_a_broken_tokenizer_is_an_error_and_not_an_absent_one(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{broken")
    with pytest.raises(VestigeError, match="could not load a causal language model from"):
        HookedModel.from_pretrained(copy)


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "/nofolder", "./here", "../there", "~/nowhere", "a/b/c", "tests/tiny.py"]
)
def test_a_path_without_a_folder_is_not_looked_up_anywhere(name: str) -> None:
    with pytest.raises(VestigeError, match="is not a folder with a Hugging Face checkpoint"):
        HookedModel.from_pretrained(name)


@pytest.mark.parametrize("name", ["nobody/no-such-model", "no-such-model"])
def test_a_hub_id_that_is_not_cached_fails_in_one_line_offline(name: str) -> None:
    """B10."""
    with pytest.raises(VestigeError, match=f"could not load a causal language model from '{name}'") as caught:
        HookedModel.from_pretrained(name)
    assert "\n" not in str(caught.value)


def empty(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def only_config(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def pickled(folder: Path) -> None:
    only_config(folder)
    torch.save({}, folder / "pytorch_model.bin")


def pickled_pt(folder: Path) -> None:
    only_config(folder)
    torch.save({}, folder / "weights.pt")


def adapter(folder: Path) -> None:
    (folder / "config.json").rename(folder / "adapter_config.json")


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{broken")


def unknown_type(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "zzz"}')


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])


def missing_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.down_proj.weight"], weights["model.norm.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def wrong_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "intermediate_size": 40}))


DAMAGE = [
    (empty, "has no config.json, so it is not a Hugging Face checkpoint"),
    (only_config, "has a config.json but no [*].safetensors weights"),
    (pickled, r"holds only pickled weights \(pytorch_model.bin\), which are never read"),
    (pickled_pt, r"holds only pickled weights \(weights.pt\), which are never read"),
    (adapter, r"holds a PEFT adapter; load its base model, wrap it with peft.PeftModel.from_pretrained"),
    (broken_config, r"could not load .* not a valid JSON file"),
    (unknown_type, r"could not load .* model type `zzz`"),
    (cut, r"could not load .* deserializing header"),
    (missing_weight, r"lacks 2 of the model's weights, e.g. 'model.layers.1.mlp.down_proj.weight'"),
    (wrong_shape, r"could not load .*"),
]


@pytest.mark.parametrize(("damage", "message"), DAMAGE, ids=[damage.__name__ for damage, _ in DAMAGE])
def test_a_damaged_folder_says_what_is_wrong_in_one_line(copy: Path, damage: Any, message: str) -> None:
    """S15: pickles are never opened; missing weights would be random numbers, and are refused."""
    damage(copy)
    with pytest.raises(VestigeError, match=message) as caught:
        HookedModel.from_pretrained(copy)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float13"}, "no dtype 'float13'; try float32, bfloat16, float16 or auto"),
        ({"dtype": "load"}, "no dtype 'load'"),
        ({"device": "cuda:7"}, "the model cannot go to device 'cuda:7'"),
        ({"device": "gpu"}, "the model cannot go to device 'gpu'"),
        ({"attn_implementation": "magic"}, "could not load a causal language model"),
        ({"bogus": 1}, "could not load .*bogus"),
    ],
)
def test_settings_that_do_not_exist_are_refused(checkpoint: Path, arguments: dict[str, Any], message: str) -> None:
    if arguments.get("device") == "cuda:7" and torch.cuda.device_count() > 7:
        pytest.skip("this machine has a cuda:7")
    with pytest.raises(VestigeError, match=message):
        HookedModel.from_pretrained(checkpoint, **arguments)


def test_code_in_a_checkpoint_is_not_run(copy: Path) -> None:
    """`trust_remote_code` is off unless it is turned on."""
    config = json.loads((copy / "config.json").read_text())
    config |= {"model_type": "zzz", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "evil.py").write_text(f"open({str(copy / 'ran')!r}, 'w')")
    with pytest.raises(VestigeError, match="could not load"):
        HookedModel.from_pretrained(copy)
    assert not (copy / "ran").exists()


def test_a_device_map_is_passed_on(checkpoint: Path, ids: Tensor) -> None:
    wanted = HookedModel.from_pretrained(checkpoint).logits(ids)
    model = HookedModel.from_pretrained(checkpoint, device_map="cpu")
    assert torch.equal(model.logits(ids), wanted)
    assert model.device == torch.device("cpu")
