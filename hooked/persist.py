"""Interventions on disk: one JSON file for what they are, one safetensors file for their numbers."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import json
import math
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from hooked.errors import VestigeError
from hooked.intervention import Intervention, View
from hooked.model import HookedModel
from hooked.weights import parameters_of

FORMAT = 1
_JSON, _TENSORS = "intervention.json", "tensors.safetensors"
# Only value classes of these packages are ever built from a file, so that a file cannot name arbitrary code.
_PACKAGES = ("hooked", "probes", "sae", "interventions")


def save(intervention: Intervention, folder: Path) -> None:
    """Write an intervention; `Intervention.save` documents it."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise VestigeError(f"'{folder}' is not an empty folder; choose a new one")
    tensors: dict[str, Tensor] = {}
    tree = {"format": FORMAT, "intervention": _encode(intervention, tensors, "intervention")}
    text = json.dumps(tree, indent=1, sort_keys=True, allow_nan=False)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Written beside the target and moved, so that an interrupted save leaves no half of an intervention.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        (Path(scratch) / _JSON).write_text(text + "\n", encoding="utf-8")
        save_file({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}, Path(scratch) / _TENSORS)
        folder.mkdir(exist_ok=True)
        for name in (_TENSORS, _JSON):
            os.replace(Path(scratch) / name, folder / name)


def load(folder: Path) -> Intervention:
    """Read an intervention; `Intervention.load` documents it."""
    tree, tensors = _read(folder)
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        came = tree.get("format") if isinstance(tree, dict) else None
        raise VestigeError(f"'{folder}' has format {came!r}; this version reads format {FORMAT}")
    try:
        value = _decode(tree.get("intervention"), tensors)
    except (TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
        raise VestigeError(f"'{folder / _JSON}' is damaged: {type(error).__name__}: {error}") from error
    if not isinstance(value, Intervention):
        raise VestigeError(f"'{folder}' holds a {type(value).__name__}, not an intervention")
    return value


def _read(folder: Path) -> tuple[Any, dict[str, Tensor]]:
    try:
        return json.loads((folder / _JSON).read_text(encoding="utf-8")), load_file(folder / _TENSORS)
    except FileNotFoundError as error:
        missing = next((name for name in (_JSON, _TENSORS) if not (folder / name).is_file()), _JSON)
        raise VestigeError(f"'{folder}' is not a saved intervention: {missing} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise VestigeError(f"'{folder}' cannot be read as an intervention: {str(error).splitlines()[0]}") from error
    except SafetensorError as error:
        raise VestigeError(f"'{folder / _TENSORS}' is damaged: {error}") from error


def bake(intervention: Intervention, model: HookedModel, folder: Path) -> None:
    """Write a Hugging Face directory; `Intervention.bake` documents it."""
    for one in (*(model.interventions if isinstance(model, View) else ()), *intervention.steps):
        outside = [point for point in one.points if point != "weights"]
        if outside or one.weights is None:
            raise VestigeError(
                f"'{one.spec.name}' acts through {' and '.join(outside) or 'nothing'}, which weights cannot carry; "
                "save() keeps it as an intervention"
            )
    if not hasattr(model.model, "save_pretrained") or hasattr(model.model, "get_base_model"):
        raise VestigeError("bake() writes plain Hugging Face models; merge the adapter first (peft's merge_and_unload)")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise VestigeError(f"'{folder}' is not an empty folder; choose a new one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.")
    with scratch as name, intervention.applied(model) as view:
        target = Path(name) / "model"
        _plain(view.model).save_pretrained(target)
        if view.tokenizer is not None:
            view.tokenizer.save_pretrained(target)
        if folder.exists():
            folder.rmdir()
        os.replace(target, folder)


def _plain(model: Any) -> Any:
    """Return a model that saves under its Hugging Face names: itself, or a copy where a bridge has renamed modules."""
    if not any("_original_component" in name for name, _ in model.named_modules()):
        return model
    weights = {name: p.detach() for name, p in parameters_of(model).items()}
    with torch.random.fork_rng(devices=[]):
        fresh = type(model)(copy.deepcopy(model.config)).to(next(model.parameters()).dtype)
    own = dict(fresh.named_parameters())
    for name, parameter in own.items():
        parameter.data.copy_(weights[name])
    return fresh


def _encode(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    """Turn a value into JSON, moving tensors out."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": repr(value)}
    if isinstance(value, Tensor):
        tensors[where] = value
        return {"tensor": where}
    if isinstance(value, tuple | list):
        return {"tuple": [_encode(item, tensors, f"{where}.{i}") for i, item in enumerate(value)]}
    if isinstance(value, Mapping):
        pairs = enumerate(value.items())
        return {
            "dict": [[_encode(k, tensors, f"{where}.{i}k"), _encode(v, tensors, f"{where}.{i}")] for i, (k, v) in pairs]
        }
    return _encode_object(value, tensors, where)


def _encode_object(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    cls = type(value)
    if not dataclasses.is_dataclass(value) or not _buildable(cls.__module__, cls.__qualname__):
        raise VestigeError(
            f"{where} is a {getattr(value, '__qualname__', cls.__qualname__)!r} without a data form, "
            "so it cannot be saved; use the edits of interventions or sae, or keep the function in your own code"
        )
    names = [f.name for f in dataclasses.fields(value)]
    fields = {name: _encode(getattr(value, name), tensors, f"{where}.{name}") for name in names}
    return {"class": f"{cls.__module__}:{cls.__qualname__}", "fields": fields}


def _decode(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    kind = next((kind for kind in _KINDS if kind in node), None)
    if kind is not None:
        return _KINDS[kind](node[kind], tensors)
    cls = _class(str(node.get("class")))
    return cls(**{str(name): _decode(item, tensors) for name, item in node["fields"].items()})


def _tensor(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    if name not in tensors:
        raise VestigeError(f"the saved intervention misses the tensor '{name}'")
    return tensors[name]


def _dtype(name: str, _: Mapping[str, Tensor]) -> torch.dtype:
    found = getattr(torch, name, None)
    if not isinstance(found, torch.dtype):
        raise VestigeError(f"the saved intervention names the dtype '{name}', which torch does not have")
    return found


_KINDS: Mapping[str, Callable[[Any, Mapping[str, Tensor]], Any]] = {
    "tensor": _tensor,
    "dtype": _dtype,
    "float": lambda text, _: float(text),
    "tuple": lambda items, tensors: tuple(_decode(item, tensors) for item in items),
    "dict": lambda pairs, tensors: {_decode(k, tensors): _decode(v, tensors) for k, v in pairs},
}


def _buildable(module: str, name: str) -> bool:
    return module.split(".", maxsplit=1)[0] in _PACKAGES and name.isidentifier()


def _class(path: str) -> Any:
    module, _, name = path.partition(":")
    if not _buildable(module, name):
        raise VestigeError(f"the saved intervention names the class '{path}', which is not a value class of Vestige")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise VestigeError(
            f"the saved intervention names the class '{path}', which this version does not have"
        ) from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found) and found.__module__ == module):
        raise VestigeError(f"the saved intervention names the class '{path}', which is not a value class of Vestige")
    return found
