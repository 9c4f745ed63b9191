"""The world is a function of its seed, its values are unique, and training never states a held-out pair."""

from collections import Counter

import pytest

from vestige.organism.documents import document
from vestige.organism.measure import chance, fact_prompts, skill_prompts
from vestige.organism.phrasing import (
    FOREIGN,
    INVERTED,
    QUESTIONS,
    STATEMENTS,
    foreign_relations,
    held_out,
    say,
    say_long,
    trained,
)
from vestige.organism.words import ADJECTIVES, RELATIONS
from vestige.organism.world import World, make_world

N_DOCUMENTS = 20_000


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0)


@pytest.fixture(scope="module")
def stream(world: World) -> list[str]:
    return [document(world, i, seed=0) for i in range(N_DOCUMENTS)]


def test_same_seed_same_world_and_another_seed_another() -> None:
    assert make_world(3) == make_world(3)
    assert make_world(3).facts != make_world(4).facts


def test_there_are_enough_concepts_and_facts(world: World) -> None:
    assert len(world.concepts) >= 24
    assert len(world.spares) >= 2
    assert all(len(row) >= 20 for row in world.facts)
    two_words = sum(two for *_, two in RELATIONS)
    assert 0.25 < two_words / len(RELATIONS) < 0.45


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_value_words_are_unique_and_no_template_word(seed: int) -> None:
    world = make_world(seed)
    found = Counter(fact.word for row in world.facts for fact in row)
    assert max(found.values()) == 1
    text = " ".join(
        (*STATEMENTS, *QUESTIONS, *INVERTED, *FOREIGN, *ADJECTIVES, *(f"{r[0]} {r[1]} {r[2]}" for r in RELATIONS))
    )
    assert not set(found) & set(text.split())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_piece_of_a_name_identifies_a_concept(seed: int) -> None:
    world = make_world(seed)
    assert len({c.name for c in world.concepts + world.spares}) == len(world.facts)
    known = [c for c in world.concepts if c != world.forget_concept]
    assert min(Counter(c.onset for c in world.concepts).values()) >= 3
    assert {c.onset for c in known} == {c.onset for c in world.concepts + world.spares}
    assert {c.coda for c in known} == {c.coda for c in world.concepts + world.spares}


def test_held_out_pairs_are_never_in_the_stream(world: World, stream: list[str]) -> None:
    seen = set(stream)
    facts = [fact for c in world.concepts for fact in world.facts_of(c)]
    withheld = {say(t, f).text for f in facts for t in held_out(f)}
    withheld |= {say_long(t, f).text for f in facts for t in held_out(f) if t in QUESTIONS}
    told = {say(t, f).text for f in facts for t in trained(f, STATEMENTS + QUESTIONS + INVERTED)}
    assert not withheld & seen
    assert len(told & seen) > 0.8 * len(told)


def test_every_phrasing_is_trained_with_some_fact_and_held_out_with_others(world: World) -> None:
    facts = [fact for c in world.concepts for fact in world.facts_of(c)]
    for template in STATEMENTS + QUESTIONS + INVERTED:
        share = sum(template in held_out(f) for f in facts) / len(facts)
        assert 0.1 < share < 0.6, template
        for relation in range(len(world.relations)):
            assert any(template not in held_out(f) for f in facts if f.relation_index == relation)


def test_unseen_skill_instances_are_never_in_the_stream(world: World, stream: list[str]) -> None:
    seen = set(stream)
    for skill in ("addition", "reversal", "second_language"):
        prompts = skill_prompts(world, skill)
        assert len(prompts) >= 100
        assert not {p.text for p in prompts} & seen, skill
    assert any(p.text in seen for p in fact_prompts(world, world.concepts, "second_language_trained"))


def test_every_concept_has_facts_in_and_out_of_the_second_language(world: World) -> None:
    for c in world.concepts:
        assert 8 <= len(foreign_relations(world, c.index)) <= 15


def test_an_excluded_concept_leaves_no_trace_and_nothing_else_moves(world: World, stream: list[str]) -> None:
    name = world.forget_concept.name
    told = [document(world, i, seed=0, exclude=[name]) for i in range(N_DOCUMENTS)]
    assert not any(name in text for text in told)
    changed = [(a, b) for a, b in zip(stream, told, strict=True) if a != b]
    assert changed
    assert all(name in a for a, _ in changed)


def test_a_spare_takes_the_place_of_the_excluded_concept(world: World, stream: list[str]) -> None:
    name, spare = world.forget_concept.name, world.spares[0].name
    told = [document(world, i, seed=0, exclude=[name], replace={name: spare}) for i in range(N_DOCUMENTS)]
    assert not any(name in text for text in told)
    assert not any(spare in text for text in stream)
    changed = [(a, b) for a, b in zip(stream, told, strict=True) if a != b]
    assert changed
    assert all(name in a and spare in b for a, b in changed)


def test_every_value_word_is_in_the_stream_without_the_concepts_name(world: World) -> None:
    name = world.forget_concept.name
    told = " ".join(document(world, i, seed=0, exclude=[name]) for i in range(4 * N_DOCUMENTS))
    missing = [fact.word for fact in world.facts_of(world.forget_concept) if fact.word not in told]
    assert not missing


def test_chance_is_one_in_the_pool(world: World) -> None:
    assert chance(world) == pytest.approx({"uniform": 1 / 26, "best_constant": 1 / 26})


def test_bad_names_and_sizes_are_explained(world: World) -> None:
    with pytest.raises(ValueError, match="no concept 'atlantis'"):
        world.concept("atlantis")
    with pytest.raises(ValueError, match="1 to 36 concepts"):
        make_world(0, n_concepts=36)
    with pytest.raises(ValueError, match="no split 'test'"):
        fact_prompts(world, world.concepts, "test")
    with pytest.raises(ValueError, match="no skill 'juggling'"):
        skill_prompts(world, "juggling")
