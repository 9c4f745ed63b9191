"""Subjects: the columns of an audit, opened one at a time so that memory holds one edited model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hooked import HookedModel, Intervention, VestigeError, View
from vestige.result import Kind, SubjectInfo

Source = Intervention | HookedModel | str | Path


@dataclass(frozen=True)
class Subject:
    """One model of an audit while it is open.

    Args:
        info: Name, kind and claim.
        model: The deployed system: weights, hooks, combiners and gates.
        raw: The same weights with everything else stripped.
    """

    info: SubjectInfo
    model: HookedModel
    raw: HookedModel


def describe(source: Source, kind: Kind, *, taken: set[str], name: str | None = None) -> tuple[SubjectInfo, Source]:
    """Name a source and read it if it is a folder with a saved intervention.

    Args:
        source: An intervention, a model, or a folder with either.
        kind: Its role.
        taken: Names in use; the new one is added.
        name: The name to use; by default the method's or the folder's.

    Raises:
        VestigeError: The folder holds neither a model nor an intervention.
    """
    if isinstance(source, str | Path) and (Path(source) / "intervention.json").is_file():
        source = Intervention.load(source)
    intent = None
    if isinstance(source, Intervention):
        found, intent, origin = source.spec.name, source.spec.intent, source.spec.source
    elif isinstance(source, HookedModel):
        found, origin = Path(source.name).name, source.name
    else:
        if not Path(source).is_dir():
            raise VestigeError(f"'{source}' is not a folder with a model or a saved intervention")
        found, origin = Path(source).resolve().name, str(source)
    base = name or found
    unique, count = base, 2
    while unique in taken:
        unique, count = f"{base}-{count}", count + 1
    taken.add(unique)
    return SubjectInfo(name=unique, kind=kind, intent=intent, source=origin), source


@contextmanager
def opened(info: SubjectInfo, source: Source, *, original: HookedModel) -> Iterator[Subject]:
    """Open a subject for reading.

    Raises:
        VestigeError: The model cannot be loaded or does not share the original's vocabulary.
    """
    if isinstance(source, Intervention):
        with source.applied(original) as view:
            yield Subject(info, view, view.raw)
        return
    model = source if isinstance(source, HookedModel) else _load(source, original)
    if model.d_vocab != original.d_vocab:
        raise VestigeError(f"'{info.name}' has a vocabulary of {model.d_vocab}, the original {original.d_vocab}; subjects of one audit share a tokenizer")
    yield Subject(info, model, model.raw if isinstance(model, View) else model)


def _load(folder: str | Path, original: HookedModel) -> HookedModel:
    return HookedModel.from_pretrained(str(folder), dtype=original.dtype, device=original.device)
