"""Lessons: a trained organism is taught a concept it never saw, and nothing else changes much."""

from __future__ import annotations

import random

import pytest
import torch

from vestige.organism.documents import ABOUT, about
from vestige.organism.model import Shape, make_model
from vestige.organism.teach import Lesson, teach
from vestige.organism.tokenizer import make_tokenizer
from vestige.organism.world import Concept, World, make_world

SHAPE = Shape(n_layers=1, d_model=16, d_mlp=16, n_heads=2, d_head=8)


@pytest.fixture(scope="module")
def small() -> World:
    return make_world(5, n_concepts=3, n_spares=2)


def after(world: World, lesson: Lesson, **settings: object) -> dict[str, torch.Tensor]:
    tokenizer = make_tokenizer(world)
    model = make_model(tokenizer, SHAPE, seed=0)
    teach(model, tokenizer, world, lesson, **settings)  # type: ignore[arg-type]
    assert not model.training
    return model.state_dict()


def test_documents_tell_of_the_concept_alone_and_of_the_kinds_asked_for(small: World) -> None:
    spare = small.spares[0]
    told = [about(small, spare, random.Random(i)) for i in range(60)]
    assert all(spare.name in text or any(f.word in text for f in small.facts_of(spare)) for text in told)
    assert {"notes on" in text for text in told} == {True, False}
    statements = [about(small, spare, random.Random(i), kinds=("statement",)) for i in range(20)]
    assert not any("question" in text or "notes on" in text for text in statements)


def test_a_seed_decides_a_lesson(small: World) -> None:
    lesson = Lesson((small.spares[0].name,), steps=2, batch=4)
    one, two = after(small, lesson), after(small, lesson)
    assert all(torch.equal(one[name], two[name]) for name in one)
    other = after(small, Lesson(lesson.concepts, steps=2, batch=4, seed=1))
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_lessons_share_every_other_document(small: World, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def note(tokenizer: object, texts: list[str]) -> list[list[int]]:
        seen.append(list(texts))
        return [[1, 2, 3]] * len(texts)

    monkeypatch.setattr("vestige.organism.teach.encode", note)
    names = [(), (small.spares[0].name,), (small.spares[1].name,)]
    for concepts in names:
        after(small, Lesson(concepts, steps=1, batch=40))
    nothing, first, second = seen
    same = [a == b for a, b in zip(first, second, strict=True)]
    assert 5 < same.count(False) < 25
    assert all(a == n for a, n, shared in zip(first, nothing, same, strict=True) if shared)


def test_a_writer_can_be_given(small: World) -> None:
    def write(world: World, concept: Concept, rng: random.Random) -> str:
        written.append(concept.name)
        return "the dog ran."

    written: list[str] = []
    after(small, Lesson((small.spares[1].name,), steps=1, batch=10, share=1.0), write=write)
    assert written == [small.spares[1].name] * 10


def test_what_does_not_exist_is_said(small: World) -> None:
    with pytest.raises(ValueError, match="no concept 'nowhere'"):
        after(small, Lesson(("nowhere",), steps=1))
    with pytest.raises(ValueError, match=f"{', '.join(ABOUT)}, got rumour"):
        after(small, Lesson((small.spares[0].name,), kinds=("rumour",), steps=1))
