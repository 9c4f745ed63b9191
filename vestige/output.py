"""Output folders: nothing is overwritten unasked, and nothing half-done is left behind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hooked.errors import VestigeError


def check_output(folder: Path, *, overwrite: bool, inputs: Iterable[str | Path | None] = ()) -> None:
    """Refuse an output folder before any work is done.

    Args:
        folder: Where the results will go.
        overwrite: Whether what is there may be replaced.
        inputs: What the command reads; replacing the folder must not take any of it along.

    Raises:
        VestigeError: It is a file, it holds something and `overwrite` is off, replacing it could take more than results
            with it, or nothing can be written there.
    """
    try:
        _check(folder, folder.resolve(), overwrite=overwrite, inputs=inputs)
    except OSError as error:
        raise VestigeError(f"'{folder}' cannot be written: {error.strerror or error}") from error


def _check(folder: Path, there: Path, *, overwrite: bool, inputs: Iterable[str | Path | None]) -> None:
    if there.exists() and not there.is_dir():
        raise VestigeError(f"'{folder}' is a file; give --out a folder")
    if there.is_dir() and any(there.iterdir()):
        if not overwrite:
            raise VestigeError(f"'{folder}' is not empty; choose another --out or pass --overwrite")
        here = Path.cwd().resolve()
        if there in (here, *here.parents, Path.home().resolve()) or (there / ".git").exists():
            raise VestigeError(
                f"'{folder}' is a working folder, which --overwrite does not replace; "
                "choose a folder of its own for results"
            )
        taken = next((path for path in inputs if path is not None and _lies_in(Path(path), there)), None)
        if taken is not None:
            raise VestigeError(f"'{folder}' holds '{taken}', which this command reads; choose another --out")
    place = next(parent for parent in (there, *there.parents) if parent.exists())
    with tempfile.TemporaryDirectory(dir=place, prefix=".vestige."):
        pass


def _lies_in(path: Path, folder: Path) -> bool:
    found = path.expanduser().resolve()
    return found.exists() and folder in (found, *found.parents)


def check_apart(out: Path, work: Path) -> None:
    """Refuse a folder for results that is also the one for work, or lies in it or around it.

    Raises:
        VestigeError: They are not apart.
    """
    results, kept = out.resolve(), work.resolve()
    if results == kept or kept in results.parents or results in kept.parents:
        said = f"both '{out}'" if results == kept else f"'{work}' and '{out}', one inside the other"
        raise VestigeError(f"--work and --out are {said}; give each a folder of its own")


@contextmanager
def output_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a scratch folder whose content takes the place of `folder`'s when the block ends well, and which vanishes
    when it does not.

    Raises:
        VestigeError: As `check_output`.
    """
    check_output(folder, overwrite=overwrite)
    there = folder.resolve()
    made = [parent for parent in there.parents if not parent.exists()]
    # An existing folder is filled, not exchanged: it may be a mount point, or somebody's current folder.
    home = there if there.is_dir() else there.parent
    try:
        home.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=home, prefix=f".{there.name}."))
    except OSError as error:
        raise VestigeError(f"'{folder}' cannot be written: {error.strerror or error}") from error
    try:
        yield scratch
        _publish(scratch, there)
        made = []
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        for parent in made:
            with suppress(OSError):
                parent.rmdir()


def _publish(scratch: Path, folder: Path) -> None:
    if not folder.exists():
        scratch.chmod(0o755)
        os.replace(scratch, folder)
        return
    # What was there is set aside first and removed last, so that it is never lost before the new is in its place.
    aside = Path(tempfile.mkdtemp(dir=folder, prefix=".replaced."))
    for entry in folder.iterdir():
        if entry not in (scratch, aside):
            entry.rename(aside / entry.name)
    for entry in scratch.iterdir():
        entry.rename(folder / entry.name)
    shutil.rmtree(aside)
