"""Where the numbers of an audit come from: models with their hashes, data, settings, versions."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from hooked import HookedModel, Intervention, UnlearnData
from vestige.result import SubjectInfo
from vestige.subjects import Source


def provenance(
    original: HookedModel,
    data: UnlearnData,
    sources: Sequence[tuple[SubjectInfo, Source]],
    *,
    hashes: Mapping[str, str | None],
    words: Sequence[str],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return JSON values without date or duration, so that the same audit gives the same bytes; the command line puts
    what was typed beside them.

    Args:
        original: The model before unlearning.
        data: The prepared items.
        sources: The subjects and what they came from.
        hashes: Subject name to the hash of its bare weights.
        words: The concept's words.
        settings: The audit's own arguments.
    """
    methods = {info.name: source.spec for info, source in sources if isinstance(source, Intervention)}
    return {
        "original": original.name,
        "dtype": str(original.dtype).removeprefix("torch."),
        "items": {split: len(getattr(data, split)) for split in ("forget", "retain", "holdout", "control")},
        "concepts": list(data.concepts),
        "words": list(words),
        "data_sha256": hashlib.sha256(repr(data).encode("utf-8", "surrogatepass")).hexdigest(),
        "subjects": {info.name: info.source for info, _ in sources},
        "weights_sha256": dict(hashes),
        "methods": {name: {"needs": list(spec.needs), **spec.settings} for name, spec in methods.items()},
        **settings,
        "versions": {name: version(name) for name in ("vestige", "torch", "transformers", "transformer-lens")},
    }
