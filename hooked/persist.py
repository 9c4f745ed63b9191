"""Interventions on disk: one JSON file for what they are, one safetensors file for their numbers."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hooked.errors import VestigeError
from hooked.intervention import Intervention
from hooked.model import HookedModel

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
    try:
        tree = json.loads((folder / _JSON).read_text(encoding="utf-8"))
        tensors = load_file(folder / _TENSORS)
    except FileNotFoundError as error:
        raise VestigeError(f"'{folder}' is not a saved intervention: {Path(error.filename or _JSON).name} is missing") from error
    except (OSError, ValueError) as error:
        raise VestigeError(f"'{folder}' cannot be read as an intervention: {str(error).splitlines()[0]}") from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        raise VestigeError(f"'{folder / _TENSORS}' is damaged: {error}") from error
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        raise VestigeError(f"'{folder}' has format {tree.get('format') if isinstance(tree, dict) else None!r}; this version reads format {FORMAT}")
    value = _decode(tree["intervention"], tensors)
    if not isinstance(value, Intervention):
        raise VestigeError(f"'{folder}' holds a {type(value).__name__}, not an intervention")
    return value


def bake(intervention: Intervention, model: HookedModel, folder: Path) -> None:
    """Write a Hugging Face directory; `Intervention.bake` documents it."""
    outside = [point for point in intervention.points if point != "weights"]
    if outside or intervention.weights is None:
        what = " and ".join(outside) or "nothing"
        raise VestigeError(
            f"'{intervention.spec.name}' acts through {what}, which weights cannot carry; save() keeps it as an intervention"
        )
    if not hasattr(model.model, "save_pretrained") or hasattr(model.model, "get_base_model"):
        raise VestigeError("bake() writes plain Hugging Face models; merge the adapter first (peft's merge_and_unload)")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise VestigeError(f"'{folder}' is not an empty folder; choose a new one")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with intervention.applied(model) as view, tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as scratch:
        target = Path(scratch) / "model"
        view.model.save_pretrained(target)  # type: ignore[operator]
        if view.tokenizer is not None:
            view.tokenizer.save_pretrained(target)
        if folder.exists():
            folder.rmdir()
        os.replace(target, folder)


def _encode(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    """Turn a value into JSON, moving tensors out."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if abs(value) != float("inf") and value == value else {"float": repr(value)}
    if isinstance(value, Tensor):
        tensors[where] = value
        return {"tensor": where}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, tuple | list):
        return {"tuple": [_encode(item, tensors, f"{where}.{i}") for i, item in enumerate(value)]}
    if isinstance(value, Mapping):
        return {"dict": [[_encode(k, tensors, f"{where}.{i}k"), _encode(v, tensors, f"{where}.{i}")] for i, (k, v) in enumerate(value.items())]}
    cls = type(value)
    if dataclasses.is_dataclass(value) and cls.__module__.split(".")[0] in _PACKAGES and "<locals>" not in cls.__qualname__:
        fields = {f.name: _encode(getattr(value, f.name), tensors, f"{where}.{f.name}") for f in dataclasses.fields(value)}
        return {"class": f"{cls.__module__}:{cls.__qualname__}", "fields": fields}
    raise VestigeError(
        f"{where} is a {getattr(value, '__qualname__', cls.__qualname__)!r} without a data form, so it cannot be saved; "
        "use the edits of hooked, interventions or sae, or keep the function in your own code"
    )


def _decode(node: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(node, dict):
        return node
    if "tensor" in node:
        if node["tensor"] not in tensors:
            raise VestigeError(f"the saved intervention misses the tensor '{node['tensor']}'")
        return tensors[node["tensor"]]
    if "float" in node:
        return float(node["float"])
    if "dtype" in node:
        return getattr(torch, node["dtype"])
    if "tuple" in node:
        return tuple(_decode(item, tensors) for item in node["tuple"])
    if "dict" in node:
        return {_decode(k, tensors): _decode(v, tensors) for k, v in node["dict"]}
    cls = _class(str(node.get("class")))
    return cls(**{name: _decode(item, tensors) for name, item in node["fields"].items()})


def _class(path: str) -> Any:
    module, _, name = path.partition(":")
    if module.split(".")[0] not in _PACKAGES or not name.isidentifier():
        raise VestigeError(f"the saved intervention names the class '{path}', which is not a value class of Vestige")
    try:
        found = getattr(importlib.import_module(module), name, None)
    except ImportError as error:
        raise VestigeError(f"the saved intervention names the class '{path}', which this version does not have") from error
    if not (isinstance(found, type) and dataclasses.is_dataclass(found) and found.__module__ == module):
        raise VestigeError(f"the saved intervention names the class '{path}', which is not a value class of Vestige")
    return found
