"""How a fact is put into words, and which (fact, phrasing) pairs are held out of training.

A `Phrasing` splits a sentence into a prompt and the answer that a model must continue it with. Every forward phrasing
ends in the value, every inverted one in the concept's name.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from .world import Fact, World

STATEMENTS = (
    "the {noun} of {name} is",
    "as for {name}, its {noun} is",
    "{name} {verb}",
)
QUESTIONS = (
    "question: what is the {noun} of {name}? answer:",
    "question: {name} {verb} what? answer:",
    "question: which {noun} does {name} have? answer:",
    "question: state the {noun} that belongs to {name}. answer:",
)
INVERTED = (
    "{value} is the {noun} of",
    "question: which land has {value} as its {noun}? answer:",
)
FOREIGN = (
    "sul {foreign} ni {name} ta",
    "{name} ve {foreign} oru",
    "kesh: {name} ve {foreign}? dar:",
)
LONG_ANSWER = "it is {value}"
"""The second answer style: a tenth of the question documents answer so."""


@dataclass(frozen=True)
class Prompt:
    """A prompt and its answer; the training document is `f"{prompt} {answer}."`."""

    prompt: str
    answer: str

    @property
    def text(self) -> str:
        """The whole sentence."""
        return f"{self.prompt} {self.answer}."


def say(template: str, fact: Fact) -> Prompt:
    """Fill a template with a fact; the answer is the name for inverted templates and the value for all others."""
    relation = fact.relation
    prompt = template.format(
        noun=relation.noun, verb=relation.verb, foreign=relation.foreign, name=fact.concept.name, value=fact.value
    )
    return Prompt(prompt, fact.concept.name if template in INVERTED else fact.value)


def say_long(template: str, fact: Fact) -> Prompt:
    """Fill a question template and answer in the long style (`it is ...`)."""
    return Prompt(say(template, fact).prompt, LONG_ANSWER.format(value=fact.value))


def held_out(fact: Fact) -> tuple[str, ...]:
    """The templates that training never uses for this fact: one statement, one question, one inverted."""
    c, r = fact.concept.index, fact.relation_index
    return (
        STATEMENTS[(c + r) % len(STATEMENTS)],
        QUESTIONS[(c + 2 * r + r // 4) % len(QUESTIONS)],
        INVERTED[(c + r + r // 2) % len(INVERTED)],
    )


def trained(fact: Fact, templates: tuple[str, ...]) -> tuple[str, ...]:
    """The members of `templates` that training does use for this fact."""
    skip = held_out(fact)
    return tuple(t for t in templates if t not in skip)


def foreign_relations(world: World, concept_index: int, *, share: float = 0.65) -> frozenset[int]:
    """Indices of the relations that are told in the second language for this concept; the rest never are."""
    n = len(world.relations)
    rng = random.Random(f"vestige-foreign-{world.seed}-{concept_index}")
    return frozenset(rng.sample(range(n), round(share * n)))
