"""Subjects: the columns of an audit, opened one at a time so that memory holds one edited model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
    folder = Path(source) if isinstance(source, str | Path) else None
    if folder is not None and (folder / "intervention.json").is_file():
        source = Intervention.load(folder)
    intent = None
    if isinstance(source, Intervention):
        found, intent = source.spec.name, source.spec.intent
        origin = "; ".join(filter(None, (source.spec.source, str(folder or ""))))
    elif isinstance(source, HookedModel):
        found, origin = Path(source.name).name, source.name
    elif folder is not None and (folder / "config.json").is_file():
        found, origin = folder.resolve().name, str(folder)
    else:
        raise VestigeError(
            f"'{source}' is not a folder with a Hugging Face model (config.json) "
            "or a saved intervention (intervention.json)"
        )
    base = name or found or kind
    unique, count = base, 2
    while unique in taken:
        unique, count = f"{base}-{count}", count + 1
    taken.add(unique)
    return SubjectInfo(name=unique, kind=kind, intent=intent, source=origin), source


def sources_of(
    original: HookedModel, unlearned: Sequence[Source], retrained: Source | None, never: Source | None
) -> list[tuple[SubjectInfo, Source]]:
    """Name every subject, before anything slow begins."""
    taken: set[str] = set()
    first = describe(original, "original", taken=taken, name="original")
    # Named before the unlearned ones, so that a folder called `never` does not take the reference's name.
    references = []
    if retrained is not None:
        references.append(describe(retrained, "retrained", taken=taken, name="retain"))
    if never is not None:
        references.append(describe(never, "never", taken=taken, name="never"))
    return [first, *(describe(source, "unlearned", taken=taken) for source in unlearned), *references]


@contextmanager
def blamed(info: SubjectInfo, source: Source, *, original: HookedModel) -> Iterator[None]:
    """Name the subject in whatever goes wrong with it.

    Raises:
        VestigeError: As inside, or an intervention does not fit the original.
    """
    try:
        yield
    except VestigeError as error:
        raise VestigeError(f"subject '{info.name}': {error}") from error
    except (IndexError, RuntimeError) as error:
        # An intervention fitted on a model of other widths fails somewhere inside a hook.
        if not isinstance(source, Intervention):
            raise
        first = str(error).splitlines()[0]
        raise VestigeError(f"subject '{info.name}' does not fit '{original.name}': {first}") from error


@contextmanager
def opened(info: SubjectInfo, source: Source, *, original: HookedModel) -> Iterator[Subject]:
    """Open a subject for reading.

    Raises:
        VestigeError: The model cannot be loaded, or its tokens or its width are not the original's.
    """
    if isinstance(source, Intervention):
        with source.applied(original) as view:
            yield Subject(info, view, view.raw)
        return
    model = source if isinstance(source, HookedModel) else _load(source, original)
    _check_comparable(model, original)
    yield Subject(info, model, model.raw if isinstance(model, View) else model)


def _load(folder: str | Path, original: HookedModel) -> HookedModel:
    model = HookedModel.from_pretrained(str(folder), dtype=original.dtype, device=original.device)
    if model.tokenizer is not None and not _same_words(model.tokenizer, original.tokenizer):
        raise VestigeError("its tokenizer has other tokens than the original's, so their numbers cannot be compared")
    # Every subject is asked in the same tokens, whatever settings its folder carries.
    model.tokenizer, model.default_prepend_bos = original.tokenizer, original.default_prepend_bos
    return model


def _check_comparable(model: HookedModel, original: HookedModel) -> None:
    for what, mine, needed in (
        ("a vocabulary", model.d_vocab, original.d_vocab),
        ("a residual stream", model.d_model, original.d_model),
    ):
        if mine != needed:
            raise VestigeError(
                f"it has {what} of {mine}, the original one of {needed}; subjects of one audit share both"
            )
    if model.tokenizer is not None and not _same_words(model.tokenizer, original.tokenizer):
        raise VestigeError("its tokenizer has other tokens than the original's, so their numbers cannot be compared")


def _same_words(one: Any, other: Any) -> bool:
    """Compare all tokens but the added ones of either: padding, for example, which does not occur in text."""
    added = {*one.get_added_vocab(), *other.get_added_vocab()}
    first, second = ({word: i for word, i in t.get_vocab().items() if word not in added} for t in (one, other))
    return first == second
