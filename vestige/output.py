"""Output folders: nothing is overwritten unasked, and nothing half-done is left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hooked.errors import VestigeError


def check_output(folder: Path, *, overwrite: bool) -> None:
    """Refuse an output folder before any work is done.

    Raises:
        VestigeError: It is a file, it holds something and `overwrite` is off, or replacing it could take more than results with it.
    """
    if folder.exists() and not folder.is_dir():
        raise VestigeError(f"'{folder}' is a file; give --out a folder")
    if not folder.is_dir() or not any(folder.iterdir()):
        return
    if not overwrite:
        raise VestigeError(f"'{folder}' is not empty; choose another --out or pass --overwrite")
    here, there = Path.cwd().resolve(), folder.resolve()
    if there in (here, *here.parents, Path.home().resolve()) or (folder / ".git").exists():
        raise VestigeError(f"'{folder}' is a working folder, which --overwrite does not replace; choose a folder of its own for results")


@contextmanager
def output_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a scratch folder that takes the place of `folder` when the block ends well, and vanishes when it does not.

    Raises:
        VestigeError: As `check_output`, or the place cannot be written.
    """
    check_output(folder, overwrite=overwrite)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise VestigeError(f"'{folder}' cannot be written: {error.strerror or error}") from error
    try:
        yield scratch
        scratch.chmod(0o755)
        if folder.is_dir():
            shutil.rmtree(folder)
        os.replace(scratch, folder)
    finally:
        if scratch.exists():
            shutil.rmtree(scratch, ignore_errors=True)
