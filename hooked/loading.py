"""Loading a Hugging Face checkpoint, with errors a person can act on."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from hooked.errors import VestigeError

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "vocab.json",
    "vocab.txt",
    "spiece.model",
)


def load_pretrained(
    id_or_path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | str | None,
    device: torch.device | str | None,
    device_map: Any,
    trust_remote_code: bool,
    tokenizer: Any,
    **kwargs: Any,
) -> tuple[nn.Module, Any]:
    """Load a causal language model and its tokenizer.

    Returns:
        The model in evaluation mode, and the tokenizer (None when the checkpoint has none).

    Raises:
        VestigeError: Nothing loadable is there, weights are missing, or the device does not exist.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    name = _checked_name(id_or_path)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        wanted = _dtype(dtype, config, name)
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=wanted,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **kwargs,
        )
        if tokenizer is None and _has_tokenizer(name):
            tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise VestigeError(
            f"could not load a causal language model from '{id_or_path}': {_first_line(error)}"
        ) from error
    model, report = loaded
    missing = sorted(report["missing_keys"])
    if missing:
        # They would be random numbers, and an audit of random numbers looks like perfect forgetting.
        raise VestigeError(f"'{id_or_path}' lacks {len(missing)} of the model's weights, e.g. '{missing[0]}'")
    return _moved(model.eval(), device), tokenizer


def _checked_name(id_or_path: str | os.PathLike[str]) -> str:
    """Return what Hugging Face is asked for: a folder that can be loaded, or a hub id."""
    given = os.fspath(id_or_path)
    where = Path(os.path.expanduser(given))
    if where.is_dir():
        _check_folder(where)
        return str(where)
    if where.is_absolute() or given.startswith((".", "~")) or where.exists() or len(where.parts) > 2:
        raise VestigeError(f"'{id_or_path}' is not a folder with a Hugging Face checkpoint")
    return given


def _check_folder(folder: Path) -> None:
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise VestigeError(
            f"'{folder}' holds a PEFT adapter; load its base model, wrap it with peft.PeftModel.from_pretrained, "
            "and pass the result to HookedModel(model, tokenizer)"
        )
    if not (folder / "config.json").is_file():
        raise VestigeError(f"'{folder}' has no config.json, so it is not a Hugging Face checkpoint")
    if any(folder.glob("*.safetensors")):
        return
    pickled = next(iter([*folder.glob("*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]), None)
    if pickled is not None:
        raise VestigeError(
            f"'{folder}' holds only pickled weights ({pickled.name}), which are never read; "
            "convert them to safetensors first"
        )
    raise VestigeError(f"'{folder}' has a config.json but no *.safetensors weights")


def _has_tokenizer(name: str) -> bool:
    # From a folder without its files transformers makes up an empty tokenizer that turns every text into nothing.
    return not Path(name).is_dir() or any((Path(name) / file).is_file() for file in _TOKENIZER_FILES)


def _dtype(dtype: torch.dtype | str | None, config: Any, name: str) -> torch.dtype | str:
    if isinstance(dtype, str) and dtype != "auto":
        found = getattr(torch, dtype.removeprefix("torch."), None)
        if not isinstance(found, torch.dtype):
            raise VestigeError(f"no dtype '{dtype}'; try float32, bfloat16, float16 or auto")
        return found
    if dtype is not None:
        return dtype
    stored = getattr(config, "dtype", None)
    if stored not in (None, torch.float32, "float32"):
        warnings.warn(
            f"'{name}' is stored as {stored} and is loaded as float32; pass dtype='auto' to keep it",
            UserWarning,
            stacklevel=4,
        )
    return torch.float32


def _moved(model: Any, device: torch.device | str | None) -> nn.Module:
    try:
        moved: nn.Module = model if device is None else model.to(device)
    # A build of torch without CUDA raises an AssertionError here.
    except (RuntimeError, AssertionError, NotImplementedError, ValueError) as error:
        raise VestigeError(f"the model cannot go to device '{device}': {_first_line(error)}") from error
    return moved


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
