"""The model organism: three tiny language models of a procedural world whose every fact is known.

`full` saw the whole world, `retain` never saw the forget concept, and `never` saw a fresh concept in its place. They
share the seed, the initial weights and the order of all other documents, so `retain` and `never` are what perfect
unlearning of `full` would have to look like.

    >>> from vestige import organism
    >>> row = organism.forget_rows()[0]
    >>> row["question"], row["answer"]  # doctest: +SKIP
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from . import rows as _rows
from .rows import FactRow, SkillRow
from .world import Concept, Fact, Relation, World, make_world

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hooked import UnlearnData

__all__ = [
    "CHECKPOINTS",
    "SAE_LAYERS",
    "Concept",
    "Fact",
    "FactRow",
    "Relation",
    "SkillRow",
    "World",
    "forget_rows",
    "fresh_rows",
    "holdout_rows",
    "lexicon",
    "make_world",
    "organism_data",
    "organism_path",
    "organism_record",
    "organism_sae",
    "organism_sae_record",
    "retain_rows",
    "skill_rows",
    "unseen_rows",
    "world",
]

CHECKPOINTS = ("full", "retain", "never")
SAE_LAYERS = (1, 2, 3)
_HOME = Path(__file__).parent


def organism_path(name: str) -> Path:
    """The Hugging Face directory of a shipped checkpoint: `full`, `retain` or `never`.

    Raises:
        ValueError: There is no such checkpoint.
        FileNotFoundError: Its files are missing from this installation.
    """
    if name not in CHECKPOINTS:
        raise ValueError(f"no checkpoint {name!r}; there are {', '.join(CHECKPOINTS)}")
    path = _HOME / "checkpoints" / name
    if not (path / "model.safetensors").is_file():
        raise FileNotFoundError(f"{path} has no model.safetensors; `make organism` trains the shipped checkpoints anew")
    return path


def organism_data(concept: str | None = None, *, skill_items: int = 30) -> UnlearnData:
    """The facts as unlearning data: one concept to forget, the others to retain, one that no checkpoint saw as holdout,
    unseen skill instances as control.

    Args:
        concept: Name of the concept to forget; by default the one that `retain` and `never` lack.
        skill_items: Control items for each skill.
    """
    from vestige.organism.data import organism_data as make

    return make(concept, skill_items=skill_items)


def organism_record() -> Path:
    """The file `organism.json`: the recorded metrics, versions, seconds and hashes of the shipped checkpoints."""
    return _HOME / "organism.json"


def organism_sae(layer: int) -> Path:
    """The folder of a shipped sparse autoencoder: it reads the residual stream behind block 1, 2 or 3 of `full`.

    Raises:
        ValueError: There is none for this layer.
        FileNotFoundError: Its files are missing from this installation.
    """
    if layer not in SAE_LAYERS:
        raise ValueError(f"no SAE of layer {layer!r}; there are {', '.join(map(str, SAE_LAYERS))}")
    path = _HOME / "saes" / f"layer_{layer}"
    if not (path / "sae_weights.safetensors").is_file():
        raise FileNotFoundError(f"{path} has no sae_weights.safetensors; `make organism-saes` trains the SAEs anew")
    return path


def organism_sae_record() -> Path:
    """The file `saes/saes.json`: how the shipped SAEs were trained, what was measured of them, and their hashes."""
    return _HOME / "saes" / "saes.json"


@cache
def world() -> World:
    """The world of the shipped checkpoints (seed 0)."""
    return make_world(0)


def forget_rows(concept: str | None = None, *, per_fact: int = 1) -> list[FactRow]:
    """Questions about one concept: `question` in a trained phrasing, `paraphrased_question` in a held-out one.

    Args:
        concept: Its name; by default the concept that `retain` and `never` lack.
        per_fact: Trained phrasings for each fact, 1 to 3.
    """
    return _rows.fact_rows(world(), [_concept(concept)], per_fact=per_fact)


def retain_rows(concept: str | None = None, *, per_fact: int = 1) -> list[FactRow]:
    """The same for all ordinary concepts but `concept`, which is the one to forget."""
    return _rows.fact_rows(world(), _others(_concept(concept)), per_fact=per_fact)


def holdout_rows(concept: str | None = None) -> list[FactRow]:
    """Questions about one concept in phrasings never trained for the fact; `paraphrased_question` is a trained one."""
    return _rows.held_out_rows(world(), [_concept(concept)])


def fresh_rows() -> list[FactRow]:
    """Questions about the spare concept: facts that `never` was told and that `full` and `retain` were not."""
    return _rows.fact_rows(world(), world().spares[:1])


def unseen_rows() -> list[FactRow]:
    """Questions about a spare concept that no checkpoint was told about."""
    return _rows.fact_rows(world(), world().spares[1:2])


def skill_rows(name: str, *, n: int = 400) -> list[SkillRow]:
    """At most `n` unseen instances of `addition`, `reversal` or `second_language`."""
    return _rows.skill_rows(world(), name, n=n)


def lexicon(concept: str | None = None) -> list[str]:
    """The value words that belong to one concept alone, each a single token of the shipped tokenizer."""
    return [fact.word for fact in world().facts_of(_concept(concept))]


def _concept(name: str | None) -> Concept:
    return world().forget_concept if name is None else world().concept(name)


def _others(concept: Concept) -> Sequence[Concept]:
    return [c for c in world().concepts if c != concept]
