"""`vestige concepts`: which value vectors promote the words of a concept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from hooked import HookedModel
from probes import ConceptVector, find_concept_vectors
from vestige.stands_out import SIGNIFICANT, null_draws

SHOWN = 8


def run(model: HookedModel, *, lexicon: Sequence[str] | None, top: int, seed: int) -> tuple[ConceptVector, ...]:
    """Search a model's value vectors by lexicon, or by the coherence of their top tokens without one."""
    return find_concept_vectors(model, lexicon=lexicon, top=top, null_draws=null_draws(model), seed=seed)


def examined(model: HookedModel) -> int:
    """Return how many value vectors a search looks at."""
    return model.n_layers * model.d_mlp


def as_json(model: HookedModel, lexicon: Sequence[str] | None, found: Sequence[ConceptVector]) -> dict[str, Any]:
    """Return the search as JSON values."""
    return {"model": model.name, "lexicon": list(lexicon or ()), "vectors": [asdict(vector) for vector in found]}


def as_table(model: HookedModel, found: Sequence[ConceptVector]) -> Table:
    """Return the search as a table; tokens are model text and are shown literally."""
    table = Table(title="concept vectors", caption=_caption(model, found))
    for column in ("layer", "neuron", "score", "p", "p corr.", "top tokens"):
        table.add_column(column, justify="left" if column == "top tokens" else "right")
    for vector in found:
        tokens = Text(" ".join(repr(token)[1:-1] for token in vector.top_tokens[:SHOWN]))
        numbers = (f"{vector.score:.3f}", f"{vector.p_value:.4f}", f"{vector.p_adjusted:.3f}")
        table.add_row(str(vector.layer), str(vector.neuron), *numbers, tokens)
    return table


def _caption(model: HookedModel, found: Sequence[ConceptVector]) -> str:
    said = "p: share of random directions of the same norm that score as high; "
    corrected = f"p corr.: corrected for the {examined(model):,} vectors examined"
    best = min((vector.p_adjusted for vector in found), default=0.0)
    if best > SIGNIFICANT and any((vector.p_least or 0.0) > SIGNIFICANT for vector in found):
        return f"{said}{corrected}; {null_draws(model):,} directions are too few for it to say more than p"
    return f"{said}{corrected} (above {SIGNIFICANT}: some of as many random directions would score as high)"
