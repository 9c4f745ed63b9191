"""The world's facts and skills as plain rows with TOFU's field names, ready for unlearning and auditing.

In `forget_rows` and `retain_rows` the `question` is a trained (fact, phrasing) pair and the `paraphrased_question` a
held-out one; in `holdout_rows` it is the other way round; `fresh_rows` are facts that only `never` was told.
"""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import TypedDict

from .measure import chance, skill_prompts
from .phrasing import LONG_ANSWER, QUESTIONS, held_out, say, say_long, trained
from .world import Concept, Fact, World

N_PERTURBED = 5


class FactRow(TypedDict):
    """One question about one fact."""

    question: str
    """The whole prompt, ending in `answer:` exactly as in training."""
    answer: str
    """The value. A model continues the prompt with a space, this and a full stop."""
    paraphrased_question: str
    """The same question in other words, also a whole prompt."""
    paraphrased_answer: str
    """`it is <value>`: the answer style of a tenth of the training questions."""
    perturbed_answer: list[str]
    """Five wrong answers in the style of `paraphrased_answer`: values of other concepts for the same relation."""
    concept: str
    relation: str
    subject: str
    """The concept's name as it stands in the question."""
    floor: float
    """The chance of a uniform guess from the relation's values."""


class SkillRow(TypedDict):
    """One instance of a skill that training never showed."""

    question: str
    answer: str
    skill: str


def fact_rows(world: World, concepts: Iterable[Concept], *, per_fact: int = 1) -> list[FactRow]:
    """Rows asked in trained phrasings, `per_fact` (at most 3) of them for each fact."""
    rows = []
    for concept in concepts:
        for fact in world.facts_of(concept):
            asked = trained(fact, QUESTIONS)
            if not 1 <= per_fact <= len(asked):
                raise ValueError(f"each fact has 1 to {len(asked)} trained question phrasings, got per_fact={per_fact}")
            turn = concept.index % len(asked)
            chosen = (asked[turn:] + asked[:turn])[:per_fact]
            rows += [_row(world, fact, question=t, other=_held_out_question(fact)) for t in chosen]
    return rows


def held_out_rows(world: World, concepts: Iterable[Concept]) -> list[FactRow]:
    """One row per fact, asked in the question phrasing that training never used for it."""
    return [
        _row(world, fact, question=_held_out_question(fact), other=trained(fact, QUESTIONS)[0])
        for concept in concepts
        for fact in world.facts_of(concept)
    ]


def skill_rows(world: World, name: str, *, n: int = 400) -> list[SkillRow]:
    """Unseen instances of `addition`, `reversal` or `second_language`; at most `n`, spread evenly over what exists."""
    prompts = skill_prompts(world, name, n=n)
    step = max(1, -(-len(prompts) // n))
    return [SkillRow(question=p.prompt, answer=p.answer, skill=name) for p in prompts[::step]]


def _held_out_question(fact: Fact) -> str:
    return next(t for t in held_out(fact) if t in QUESTIONS)


def _row(world: World, fact: Fact, *, question: str, other: str) -> FactRow:
    wrong = sorted(set(world.pool(fact.relation_index)) - {fact.value})
    rng = random.Random(f"vestige-perturbed-{world.seed}-{fact.concept.index}-{fact.relation_index}")
    long = say_long(question, fact)
    return FactRow(
        question=long.prompt,
        answer=fact.value,
        paraphrased_question=say(other, fact).prompt,
        paraphrased_answer=long.answer,
        perturbed_answer=[LONG_ANSWER.format(value=v) for v in rng.sample(wrong, N_PERTURBED)],
        concept=fact.concept.name,
        relation=fact.relation.noun,
        subject=fact.concept.name,
        floor=chance(world)["uniform"],
    )
