"""Loading a Hugging Face checkpoint, with errors a person can act on."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hooked.errors import VestigeError


def load_pretrained(
    id_or_path: str,
    *,
    dtype: torch.dtype | str | None,
    device_map: Any,
    trust_remote_code: bool,
    tokenizer: Any,
    **kwargs: Any,
) -> tuple[nn.Module, Any]:
    """Load a causal language model and its tokenizer.

    Returns:
        The model in evaluation mode, and the tokenizer (None when the checkpoint has none).

    Raises:
        VestigeError: Nothing loadable is there.
    """
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    where = Path(os.path.expanduser(str(id_or_path)))
    if where.is_dir():
        _check_folder(where)
    elif len(where.parts) != 2 and (where.is_absolute() or str(id_or_path).startswith((".", "~")) or where.exists()):
        raise VestigeError(f"'{id_or_path}' is not a folder with a Hugging Face checkpoint")
    name = str(where) if where.is_dir() else str(id_or_path)
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=trust_remote_code)
        wanted = _dtype(dtype, config, name)
        model = AutoModelForCausalLM.from_pretrained(
            name,
            dtype=wanted,
            device_map=device_map,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            **kwargs,
        )
        if tokenizer is None:
            tokenizer = _tokenizer(AutoTokenizer, name, trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise VestigeError(
            f"could not load a causal language model from '{id_or_path}': {_first_line(error)}"
        ) from error
    return model.eval(), tokenizer


def _check_folder(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise VestigeError(f"'{folder}' has no config.json, so it is not a Hugging Face checkpoint")
    if any(folder.glob("*.safetensors")):
        return
    pickled = next(iter([*folder.glob("pytorch_model*.bin"), *folder.glob("*.pt"), *folder.glob("*.pth")]), None)
    if pickled is not None:
        raise VestigeError(
            f"'{folder}' holds only pickled weights ({pickled.name}), which are never read; convert them to safetensors first"
        )
    raise VestigeError(f"'{folder}' has a config.json but no *.safetensors weights")


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


def _tokenizer(auto: Any, name: str, trust_remote_code: bool) -> Any:
    try:
        return auto.from_pretrained(name, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
