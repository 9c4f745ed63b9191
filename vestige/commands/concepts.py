"""`vestige concepts`: which value vectors promote the words of a concept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from hooked import HookedModel
from probes import ConceptVector, find_concept_vectors

SHOWN = 8


def run(model: HookedModel, *, lexicon: Sequence[str] | None, top: int, seed: int) -> tuple[ConceptVector, ...]:
    """Search a model's value vectors by lexicon, or by the coherence of their top tokens without one."""
    return tuple(find_concept_vectors(model, lexicon=lexicon, top=top, seed=seed))


def as_json(model: HookedModel, lexicon: Sequence[str] | None, found: Sequence[ConceptVector]) -> dict[str, Any]:
    """Return the search as JSON values."""
    return {"model": model.name, "lexicon": list(lexicon or ()), "vectors": [asdict(vector) for vector in found]}


def as_table(found: Sequence[ConceptVector]) -> Table:
    """Return the search as a table; tokens are model text and are shown literally."""
    table = Table(title="concept vectors", caption="p: share of random directions of the same norm that score as high")
    for column in ("layer", "neuron", "score", "p", "top tokens"):
        table.add_column(column, justify="left" if column == "top tokens" else "right")
    for vector in found:
        tokens = Text(" ".join(repr(token)[1:-1] for token in vector.top_tokens[:SHOWN]))
        table.add_row(str(vector.layer), str(vector.neuron), f"{vector.score:.3f}", f"{vector.p_value:.4f}", tokens)
    return table
