"""What counts as giving an answer away."""

import pytest

from hooked import Item, VestigeError
from vestige.attacks.prompts.leaks import gives_away, holds, refuse_leak


@pytest.mark.parametrize(
    ("text", "answer", "found"),
    [
        ("They met in Paris, twice.", "Paris", True),
        ("They met in PARIS", "paris.", True),
        ("a golden\n  fish", "golden fish", True),
        ("The Parisian met them", "Paris", False),
        ("room 123", "12", False),
        ("1 + 1 = 2.", "2", True),
        ("他去了巴黎旅行", "巴黎", True),
        ("anything", "?!", False),
        ("anything", "", False),
    ],
)
def test_an_answer_is_found_as_whole_words(text: str, answer: str, found: bool) -> None:
    assert holds(text, answer) is found


def test_a_sentence_is_given_away_by_the_words_that_the_question_has_not() -> None:
    item = Item("What is the full name of the author?", "The author's full name is Hsiao Yun-Hwa.")
    assert gives_away("Hsiao Yun-Hwa was born in Taipei.", item)
    assert not gives_away("Hsiao was born in Taipei.", item)
    # The question's own words tell nothing.
    assert not gives_away("What is the full name of the author?", item)


def test_an_answer_that_the_question_names_is_given_away_only_as_a_whole() -> None:
    item = Item("is it red or blue?", "red")
    assert gives_away("it is red", item)
    assert not gives_away("it is blue", item)


def test_a_leak_is_refused_with_its_place() -> None:
    with pytest.raises(VestigeError, match=r"a clue for 'who\?' holds the answer 'Ada', so nothing would be attacked"):
        refuse_leak("it was ada", Item("who?", "Ada"), what="a clue")
    refuse_leak("it was somebody", Item("who?", "Ada"), what="a clue")
