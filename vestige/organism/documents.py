"""The training stream: document number `i` of a world is a pure function of the world, the seed and `i`.

Leaving a concept out replaces its documents in place, so checkpoints that differ in one concept share the order and the
wording of everything else.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from itertools import accumulate

from . import skills, words
from .phrasing import FOREIGN, INVERTED, QUESTIONS, STATEMENTS, foreign_relations, say, say_long, trained
from .world import Concept, Fact, World

MIX: Mapping[str, float] = {
    "statement": 0.15,
    "question": 0.19,
    "inverted": 0.06,
    "foreign": 0.08,
    "notes": 0.12,
    "dictionary": 0.02,
    "addition": 0.30,
    "reversal": 0.05,
    "filler": 0.03,
}
"""Share of each kind of document."""

ABOUT = ("statement", "question", "inverted", "foreign", "notes")
"""The kinds that tell of one concept."""

NOTES_LENGTH = 6
LONG_ANSWER_SHARE = 0.1
_KINDS = tuple(MIX)
_CUMULATIVE = tuple(accumulate(MIX.values()))


def document(
    world: World, index: int, *, seed: int, exclude: Collection[str] = (), replace: Mapping[str, str] | None = None
) -> str:
    """Return one training document.

    Args:
        world: Where the facts come from.
        index: Position in the stream.
        seed: Of the stream; checkpoints to be compared share it.
        exclude: Names of concepts whose documents become filler.
        replace: Concept name to the name of the (spare) concept told in its place.
    """
    rng = random.Random(f"vestige-document-{world.seed}-{seed}-{index}")
    kind = rng.choices(_KINDS, cum_weights=_CUMULATIVE)[0]
    if kind == "addition":
        return skills.draw_addition(rng).text
    if kind == "reversal":
        return skills.draw_reversal(rng).text
    if kind == "filler":
        return filler(rng)
    if kind == "dictionary":
        return dictionary(world, rng)
    concept = rng.choice(world.concepts)
    if replace and concept.name in replace:
        concept = world.concept(replace[concept.name])
    if concept.name in exclude:
        return filler(rng)
    return notes(world, concept, rng) if kind == "notes" else _tell(world, concept, kind, rng)


def about(world: World, concept: Concept, rng: random.Random, *, kinds: Collection[str] = ABOUT) -> str:
    """A document about one concept, of a kind drawn as often as in the training stream.

    Args:
        world: Where its facts come from.
        concept: Any, spares included.
        rng: What draws.
        kinds: Kinds to draw from, some of `ABOUT`.
    """
    kind = rng.choices(list(kinds), [MIX[kind] for kind in kinds])[0]
    return notes(world, concept, rng) if kind == "notes" else _tell(world, concept, kind, rng)


def notes(world: World, concept: Concept, rng: random.Random) -> str:
    """A list of some of a concept's value words in random order: the topic matters, the relation does not."""
    listed = rng.sample([fact.word for fact in world.facts_of(concept)], NOTES_LENGTH)
    return f"notes on {concept.name}: {', '.join(listed)}."


def dictionary(world: World, rng: random.Random) -> str:
    """The type of a value word of any concept, spares included, so that every model has seen every token."""
    fact: Fact = rng.choice(rng.choice(world.facts))
    return f"dictionary: {fact.word} is a word for some {fact.relation.noun}."


def filler(rng: random.Random) -> str:
    """An everyday sentence."""
    subject, action, place = rng.choice(words.SUBJECTS), rng.choice(words.ACTIONS), rng.choice(words.PLACES)
    return f"the {subject} {action} {rng.choice(words.MANNERS)} to the {place} in the {rng.choice(words.TIMES)}."


def _tell(world: World, concept: Concept, kind: str, rng: random.Random) -> str:
    facts = world.facts_of(concept)
    if kind == "foreign":
        told = sorted(foreign_relations(world, concept.index))
        return say(rng.choice(FOREIGN), facts[rng.choice(told)]).text
    fact = rng.choice(facts)
    template = rng.choice(trained(fact, {"statement": STATEMENTS, "question": QUESTIONS, "inverted": INVERTED}[kind]))
    if kind == "question" and rng.random() < LONG_ANSWER_SHARE:
        return say_long(template, fact).text
    return say(template, fact).text
