"""The organism's facts in its second language."""

from dataclasses import replace

import pytest

from vestige import organism
from vestige.organism.translation import told_in_translation, translated_items


def test_translations_are_aligned_and_keep_the_answer() -> None:
    items = organism.organism_data().forget
    found = translated_items(items)
    assert [one.answer for one in found] == [item.answer for item in items]
    assert found[0].prompt == f"kesh: {items[0].subject} ve orma? dar:"
    assert all(str(item.relation) not in one.prompt for item, one in zip(items, found, strict=True))


def test_some_facts_are_told_in_translation_and_some_are_not() -> None:
    items = organism.organism_data().forget
    told = [told_in_translation(item) for item in items]
    assert sum(told) == 13
    assert len(told) == 20
    # What the control split asks in the second language was never told in it.
    asked = [
        item.prompt for item in organism.organism_data(skill_items=500).control if item.relation == "second_language"
    ]
    retained = [item for item in organism.organism_data().retain if translated_items([item])[0].prompt in asked]
    assert retained
    assert not any(map(told_in_translation, retained))


def test_what_is_no_fact_of_the_world_is_refused() -> None:
    item = organism.organism_data().forget[0]
    with pytest.raises(ValueError, match="no relation 'color'"):
        translated_items([replace(item, relation="color")])
    with pytest.raises(ValueError, match="no concept 'atlantis'"):
        told_in_translation(replace(item, subject="atlantis"))
