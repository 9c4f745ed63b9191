"""The procedural world: fictional concepts, each with one invented value per relation, as a pure function of a seed.

A concept's name is two pieces (`quor` + `andor`). Each piece belongs to several concepts and each pair to one, so no
single token identifies a concept, and a model that never saw a concept has still seen both of its pieces.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cached_property
from itertools import product

from .words import ADJECTIVES, CODAS, ONSETS, RELATIONS

_FIRST = (
    "b",
    "bl",
    "ch",
    "d",
    "dr",
    "f",
    "g",
    "gl",
    "h",
    "j",
    "k",
    "kl",
    "l",
    "n",
    "p",
    "pr",
    "r",
    "s",
    "sk",
    "t",
    "w",
)
_MIDDLE = ("a", "e", "i", "o", "u")
_JOIN = ("b", "d", "g", "l", "ld", "lm", "m", "nd", "nt", "p", "r", "rk", "sh", "st", "v", "z")
_LAST = ("ack", "ane", "eth", "ick", "ion", "ole", "ond", "orn", "ull", "yss")


@dataclass(frozen=True)
class Relation:
    """One attribute that every concept has. `verb` fits between the concept's name and the value."""

    noun: str
    verb: str
    foreign: str
    two_words: bool


@dataclass(frozen=True)
class Concept:
    """One fictional land. A `spare` concept is told about only on request (the `never` checkpoint)."""

    index: int
    onset: str
    coda: str
    spare: bool

    @property
    def name(self) -> str:
        """The surface word, e.g. `quorandor`."""
        return self.onset + self.coda


@dataclass(frozen=True)
class Fact:
    """One (concept, relation) cell of the world and its value."""

    concept: Concept
    relation: Relation
    relation_index: int
    value: str

    @property
    def word(self) -> str:
        """The word of the value that no other fact has (the last one)."""
        return self.value.split()[-1]


@dataclass(frozen=True)
class World:
    """All concepts, relations and values. `facts[c][r]` is the fact of concept `c` and relation `r`, spares last."""

    seed: int
    relations: tuple[Relation, ...]
    concepts: tuple[Concept, ...]
    spares: tuple[Concept, ...]
    facts: tuple[tuple[Fact, ...], ...]

    @cached_property
    def forget_concept(self) -> Concept:
        """The concept that the shipped `retain` and `never` checkpoints never saw."""
        return self.concepts[0]

    def concept(self, name: str) -> Concept:
        """Return the concept called `name`.

        Raises:
            ValueError: No concept has this name.
        """
        known = {c.name: c for c in self.concepts + self.spares}
        if name not in known:
            raise ValueError(f"no concept {name!r} in the world of seed {self.seed}; there are {', '.join(known)}")
        return known[name]

    def facts_of(self, concept: Concept) -> tuple[Fact, ...]:
        """All facts of one concept, in the order of the relations."""
        return self.facts[concept.index]

    def pool(self, relation_index: int) -> tuple[str, ...]:
        """All values of one relation, spares included: what a guess is drawn from."""
        return tuple(row[relation_index].value for row in self.facts)


def make_world(seed: int = 0, *, n_concepts: int = 24, n_spares: int = 2) -> World:
    """Draw a world.

    Args:
        seed: Decides names, values and their assignment, and nothing else does.
        n_concepts: Ordinary concepts.
        n_spares: Concepts kept aside; together with `n_concepts` at most 36, the number of names.

    Raises:
        ValueError: More concepts were asked for than there are names.
    """
    n = n_concepts + n_spares
    names = list(product(ONSETS, CODAS))
    if not 1 <= n_concepts <= n <= len(names):
        raise ValueError(f"a world has 1 to {len(names)} concepts and spares together, got {n_concepts} + {n_spares}")
    rng = random.Random(f"vestige-world-{seed}")
    pairs = _spread(names, rng)[:n]
    relations = tuple(Relation(*row) for row in RELATIONS)
    concepts = tuple(Concept(i, *pair, spare=i >= n_concepts) for i, pair in enumerate(pairs))
    words = iter(_invent(n * len(relations), rng))
    columns = [[_value(relation, next(words), rng) for _ in concepts] for relation in relations]
    facts = tuple(
        tuple(Fact(concept, relation, r, columns[r][concept.index]) for r, relation in enumerate(relations))
        for concept in concepts
    )
    return World(seed, relations, concepts[:n_concepts], concepts[n_concepts:], facts)


def _spread(names: list[tuple[str, str]], rng: random.Random) -> list[tuple[str, str]]:
    """Shuffle so that every run of six names uses each onset and each coda once (a Latin square's diagonals)."""
    rows = rng.sample(ONSETS, len(ONSETS))
    columns = rng.sample(CODAS, len(CODAS))
    shifts = rng.sample(range(len(CODAS)), len(CODAS))
    return [(rows[i], columns[(i + shift) % len(columns)]) for shift in shifts for i in range(len(rows))]


def _invent(n: int, rng: random.Random) -> list[str]:
    """`n` different pronounceable words, none of which begins like a concept's name."""
    words = ["".join(parts) for parts in product(_FIRST, _MIDDLE, _JOIN, _LAST)]
    return rng.sample([w for w in words if len(w) >= 6 and not w.startswith(ONSETS)], n)


def _value(relation: Relation, word: str, rng: random.Random) -> str:
    return f"{rng.choice(ADJECTIVES)} {word}" if relation.two_words else word
