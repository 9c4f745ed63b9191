"""What the commands load: models, data and words, from what a person types."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from hooked import HookedModel, Intervention, UnlearnData, VestigeError, load_data
from hooked.load import read_rows

# Of parameters; `auto` is the checkpoint's own.
DTYPES = ("float32", "bfloat16", "float16", "float64", "auto")


@contextmanager
def option(name: str) -> Iterator[None]:
    """Name the option whose value is at fault.

    Raises:
        VestigeError: As inside.
    """
    try:
        yield
    except VestigeError as error:
        raise VestigeError(f"{name}: {error}") from error


def model(path: str, *, device: str | None, dtype: str, given: str = "--model") -> HookedModel:
    """Load a model onto a device.

    Args:
        path: Folder or hub id.
        device: Where it runs.
        dtype: Of its parameters.
        given: The option that names it.

    Raises:
        VestigeError: The device does not exist, or nothing loadable is there.
    """
    if dtype not in DTYPES:
        raise VestigeError(f"--dtype is one of {', '.join(DTYPES)}, got '{dtype}'")
    try:
        place = torch.device(device) if device else None
        if place is not None:
            torch.empty(1, device=place).item()
    except (RuntimeError, AssertionError) as error:
        raise VestigeError(f"device '{device}' is not available: {str(error).splitlines()[0]}") from error
    plain_output()
    with warnings.catch_warnings(), option(given):
        # The dtype was chosen on the command line, so the reminder that there is a choice is noise here.
        warnings.filterwarnings("ignore", message=".*is loaded as float32")
        return HookedModel.from_pretrained(path, dtype=dtype, device=place)


def sae(source: str, sae_id: str | None, *, site: str | None, device: str | None) -> Any:
    """Load an SAE onto a device.

    Raises:
        VestigeError: Nothing loadable is there, or its file names another site than the one given.
    """
    from sae import load_sae

    with option("--sae"):
        loaded = load_sae(source, sae_id, device=device or "cpu")
    said = loaded.cfg.metadata.hook_name
    if site is not None:
        if said is not None and said != site:
            raise VestigeError(f"the SAE says that it belongs at '{said}'; leave --site out, or correct its cfg.json")
        loaded.cfg.metadata.hook_name = site
    return loaded


def check_sae(sae: str | None, sae_id: str | None, site: str | None, *, retain: Path | None) -> None:
    """Refuse options of an SAE without one, and an SAE without items that its latents tell the forget items from.

    Raises:
        VestigeError: An option is missing.
    """
    for name, value in (("--sae-id", sae_id), ("--site", site)):
        if sae is None and value is not None:
            raise VestigeError(f"{name} says more of an SAE; give that with --sae, or leave it out")
    if sae is not None and retain is None:
        raise VestigeError("--sae follows latents that tell forget from retain prompts; give these with --retain")


def intervention(folder: Path | None) -> Intervention | None:
    """Read a saved intervention, if there is one to read.

    Raises:
        VestigeError: The folder holds none.
    """
    if folder is None:
        return None
    if not folder.is_dir():
        raise VestigeError(f"--after: there is no folder '{folder}' with an intervention to build on")
    if (folder / "config.json").is_file() and not (folder / "intervention.json").is_file():
        raise VestigeError(f"--after: '{folder}' is a model, not an intervention; pass it as --model")
    with option("--after"):
        return Intervention.load(folder)


def plain_output() -> None:
    """Keep Hugging Face's loading bars out of log files; on a terminal they stay."""
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()


def data(
    forget: Path,
    retain: Path | None,
    control: Path | None,
    *,
    template: str,
    concept: str | None,
    holdout: Path | None = None,
) -> UnlearnData:
    """Load the user's files; `concept` names what plain documents are about.

    Raises:
        VestigeError: A file cannot be read, or a row of it.
    """
    given = {"--forget": forget, "--retain": retain, "--holdout": holdout, "--control": control}
    for name, path in given.items():
        if path is not None:
            with option(name):
                # A row is read only where one is asked for, so this opens the file and no more.
                read_rows(path, name)
    loaded = load_data(forget, retain=retain, holdout=holdout, control=control, template=template)
    if concept is None:
        return loaded
    named = tuple(replace(item, concept=concept) if item.concept is None else item for item in loaded.forget)
    return replace(loaded, forget=named)


def words(text: str | None) -> tuple[str, ...] | None:
    """Split a comma-separated lexicon.

    Raises:
        VestigeError: No word is in it.
    """
    if text is None:
        return None
    found = tuple(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))
    if not found:
        raise VestigeError("the lexicon has no word; write for example --lexicon 'dog,puppy,bark'")
    return found


def check_folders(unlearned: Sequence[Path], *, retrained: Path | None, never: Path | None) -> None:
    """Refuse folders that do not exist before anything slow begins.

    Raises:
        VestigeError: A folder is missing.
    """
    for given, paths in {"--unlearned": unlearned, "--retrained": [retrained], "--never": [never]}.items():
        for path in paths:
            if path is not None and not path.is_dir():
                raise VestigeError(f"{given}: '{path}' is not a folder")
