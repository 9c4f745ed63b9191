"""What an audit asks: cuts of documents, wrong answers, sampling, what is left out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hooked import Item, UnlearnData, VestigeError
from hooked.text import join
from vestige.items import ANSWER_WORDS, PROMPT_WORDS, as_completion, audit_items, with_wrong_answers

# Chinese, written as escapes so that no reader mistakes one character for another.
I_LIKE_DOGS = "\u6211\u975e\u5e38\u559c\u6b22\u72d7\u3002\u732b\u4e5f\u5f88\u597d\u3002"
DOG = "\u72d7"


def document(text: str, concept: str | None = None) -> tuple[str, str]:
    item = as_completion(Item("", text, concept=concept))
    return item.prompt, item.answer


def test_a_question_stays_as_it_is() -> None:
    item = Item("q", "a", concept="a")
    assert as_completion(item) is item


@pytest.mark.parametrize(
    ("text", "concept", "prompt", "answer"),
    [
        ("Tom saw a dog in the park. It ran.", "dog", "Tom saw a", "dog in the park."),
        ("Tom saw a Dog! It ran.", "dog", "Tom saw a", "Dog!"),
        ("Tom saw a dog", "dog", "Tom saw a", "dog"),
        # Inside a word is no mention; the start of a word is.
        ("An endogenous thing. A dog ran.", "dog", "An endogenous thing. A", "dog ran."),
        ("We saw hotdogs and dogs here. Yes.", "dog", "We saw hotdogs and", "dogs here."),
        # With nothing before it, the next mention is asked.
        ("Dogs bark. The dog ran home.", "dog", "Dogs bark. The", "dog ran home."),
        # A full stop inside the concept ends nothing.
        ("Books by J. K. Rowling sell. Many.", "J. K. Rowling", "Books by", "J. K. Rowling sell."),
        ("one two\ndog three\nfour", "dog", "one two\n", "dog three\n"),
        # Characters that change their length in lower case shift nothing.
        ("\u0130\u0130\u0130 the dog ran.", "dog", "\u0130\u0130\u0130 the", "dog ran."),
        # Only at the very start, or not at all: the middle.
        ("Dog one two three", "dog", "Dog one", "two three"),
        ("one two three four", "dog", "one two", "three four"),
        ("a (b) [c]", "[c]", "a (b)", "[c]"),
    ],
)
def test_where_a_document_is_cut(text: str, concept: str, prompt: str, answer: str) -> None:
    assert document(text, concept) == (prompt, answer)


def test_without_a_concept_the_cut_is_in_the_middle_and_nothing_is_lost() -> None:
    text = "one two three four five"
    prompt, answer = document(text)
    assert (prompt, answer) == ("one two", "three four five")
    assert join(prompt, answer) == text


def test_scripts_without_spaces_are_cut_between_characters() -> None:
    assert document(I_LIKE_DOGS) == (I_LIKE_DOGS[:6], I_LIKE_DOGS[6:])
    assert document(I_LIKE_DOGS, DOG) == (I_LIKE_DOGS[:5], I_LIKE_DOGS[5:7])


def test_long_documents_are_shortened_around_the_cut() -> None:
    words = [f"w{i}" for i in range(1000)]
    prompt, answer = document(" ".join(words))
    assert prompt.split() == words[:PROMPT_WORDS]
    assert answer.split() == words[PROMPT_WORDS : PROMPT_WORDS + ANSWER_WORDS]
    words[500] = "dog"
    prompt, answer = document(" ".join(words), "dog")
    assert prompt.split() == words[500 - PROMPT_WORDS : 500]
    assert answer.split() == words[500 : 500 + ANSWER_WORDS]


def test_fields_survive_a_cut() -> None:
    item = as_completion(Item("", "one two", concept="x", subject="s", relation="r", floor=0.5))
    assert (item.concept, item.subject, item.relation, item.floor) == ("x", "s", "r", 0.5)


def test_wrong_answers_come_from_the_same_relation() -> None:
    capitals = [Item(f"capital {i}", f"city {i}", relation="capital") for i in range(9)]
    rivers = [Item(f"river {i}", f"stream {i}", relation="river") for i in range(3)]
    loose = [Item("x", "free"), Item("y", "loose")]
    filled = with_wrong_answers(capitals + rivers + loose, capitals + rivers + loose, seed=0)
    for item in filled[:9]:
        assert len(set(item.perturbed_answers)) == 5
        assert set(item.perturbed_answers) <= {c.answer for c in capitals} - {item.answer}
    assert set(filled[9].perturbed_answers) == {"stream 1", "stream 2"}
    assert filled[12].perturbed_answers == ("loose",)


def test_right_answers_to_the_same_question_are_not_wrong() -> None:
    items = [Item("q", "one"), Item("q", "another"), Item("p", "third"), Item("o", "one")]
    filled = with_wrong_answers(items, items, seed=0)
    assert filled[0].perturbed_answers == ("third",)


def test_given_wrong_answers_stay_and_keep_the_paraphrase_of_their_style() -> None:
    given = Item("q", "a", paraphrased_answer="it is a", perturbed_answers=("it is b",))
    lacking = Item("p", "b", paraphrased_answer="it is b")
    filled = with_wrong_answers([given, lacking], [given, lacking], seed=0)
    assert filled[0] == given
    # Plain wrong answers are compared with the plain answer.
    assert filled[1] == replace(lacking, paraphrased_answer=None, perturbed_answers=("a",))


def test_nothing_to_choose_from_leaves_no_wrong_answers() -> None:
    assert with_wrong_answers([Item("q", "a")], [Item("q", "a")], seed=0)[0].perturbed_answers == ()


def data(n: int = 30) -> UnlearnData:
    forget = tuple(Item(f"f{i}", f"a{i}") for i in range(n))
    return UnlearnData(forget, tuple(Item(f"r{i}", f"b{i}") for i in range(n)))


def test_sampling_is_repeatable_keeps_the_order_and_depends_on_the_seed() -> None:
    chosen = [audit_items(data(), max_items=10, seed=seed) for seed in (0, 0, 1)]
    assert chosen[0] == chosen[1]
    assert chosen[0].forget != chosen[2].forget
    order = [int(item.prompt[1:]) for item in chosen[0].forget]
    assert order == sorted(order)
    assert len(chosen[0].forget) == len(chosen[0].retain) == 10


def test_the_given_data_is_left_alone() -> None:
    given = data(5)
    before = repr(given)
    assert audit_items(given, max_items=3, seed=0) == audit_items(given, max_items=3, seed=0)
    assert repr(given) == before


def test_what_cannot_be_scored_is_left_out() -> None:
    forget = (Item("asked without an answer", ""), Item("", "word"), Item("q", "a"), Item("", "two words"))
    assert [item.prompt for item in audit_items(UnlearnData(forget), max_items=9, seed=0).forget] == ["q", "two"]


def test_nothing_to_score_is_refused() -> None:
    with pytest.raises(VestigeError, match="no forget item has an answer"):
        audit_items(UnlearnData((Item("q", ""), Item("", "word"))), max_items=9, seed=0)


def test_copies_are_asked_once_and_said() -> None:
    one, two = Item("q1", "a1"), Item("q2", "a2")
    reworded = replace(one, paraphrased_prompt="q one")
    data = UnlearnData((one, two, one, reworded, one, Item("q1", "other")), (two, two))
    with pytest.warns(UserWarning, match="2 of 6 forget items repeat others and are asked once"):
        found = audit_items(data, max_items=10, seed=0)
    asked = [(item.prompt, item.answer, item.paraphrased_prompt) for item in found.forget]
    assert asked == [("q1", "a1", None), ("q2", "a2", None), ("q1", "a1", "q one"), ("q1", "other", None)]
    assert len(found.retain) == 1
