"""`vestige unlearn`: fit one method and save what it would change."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from probes import find_concept_vectors
from vestige.auditing import forget_words
from vestige.methods import ON_VECTORS, method, settings
from vestige.output import output_folder


def fit(
    name: str,
    model: HookedModel,
    data: UnlearnData,
    *,
    lexicon: Sequence[str] | None,
    seed: int,
    pairs: Sequence[str],
    top: int = 10,
) -> Intervention:
    """Fit a method by name.

    Args:
        name: One of `vestige.methods.METHODS`.
        model: Left as it is.
        data: What to forget and keep.
        lexicon: Words of the concept, for methods that edit value vectors.
        seed: Passed to methods that draw.
        pairs: Further `key=value` settings.
        top: How many value vectors those methods edit.
    """
    function = method(name)
    arguments: dict[str, Any] = settings(function, pairs)
    if "seed" in function.__kwdefaults__:
        arguments.setdefault("seed", seed)
    if name not in ON_VECTORS:
        fitted: Intervention = function(model, data, **arguments)
        return fitted
    words = lexicon if lexicon is not None else forget_words(data)
    if not words:
        raise VestigeError(f"{name} edits the concept's value vectors and needs its words; pass --lexicon 'a,b,c'")
    vectors = find_concept_vectors(model, lexicon=words, top=top, seed=seed)
    edited: Intervention = (
        function(model, vectors, **arguments)
        if name == "ablate_vectors"
        else function(model, data, vectors, **arguments)
    )
    return edited


def run(intervention: Intervention, model: HookedModel, *, out: Path, overwrite: bool, bake: bool) -> dict[str, Any]:
    """Write a fitted method, as an intervention or (with `bake`) as a Hugging Face folder, and describe it."""
    with output_folder(out, overwrite=overwrite) as folder:
        if bake:
            intervention.bake(model, folder)
        else:
            intervention.save(folder)
    patch = intervention.weights
    return {
        "method": intervention.spec.name,
        "intent": intervention.spec.intent,
        "acts_through": list(intervention.points),
        "changed_parameters": 0 if patch is None else len(patch.deltas),
        "source": intervention.spec.source,
        "out": str(out),
        "kind": "model" if bake else "intervention",
    }
