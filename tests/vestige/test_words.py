"""Which words stand for a concept that the user did not spell out."""

from hooked import Item, UnlearnData
from tests.tiny import byte_tokenizer, shared_model, tiny_model
from vestige.words import MOST_WORDS, concept_words, forget_words


def test_words_of_forget_answers_that_retain_answers_lack() -> None:
    data = UnlearnData(
        (Item("q", "the t5, 'big' fox."), Item("p", "t5 (old)")), (Item("r", "the big house"),), (), (Item("c", "fox"),)
    )
    # Those of most answers first; punctuation around a word is none of it.
    assert forget_words(data) == ("t5", "fox", "old")


def test_what_is_no_word_is_left_out() -> None:
    assert forget_words(UnlearnData((Item("q", "--- a \u2026\u2026 ok"),))) == ("ok",)


def test_a_word_counts_once_per_answer_and_the_list_is_bounded() -> None:
    items = tuple(Item(f"q{i}", f"w{i} w{i} w{i} shared") for i in range(100))
    words = forget_words(UnlearnData(items))
    assert words[0] == "shared"
    assert len(words) == MOST_WORDS


def test_a_lexicon_is_taken_as_it_is() -> None:
    assert concept_words(shared_model("gpt2"), UnlearnData((Item("q", "t5"),)), ["t7", "t8"]) == ("t7", "t8")


def test_documents_are_about_what_they_say_they_are() -> None:
    named = UnlearnData((Item("", "t5 t6 t7", concept="t9"), Item("", "t5 t6", concept="t9")))
    assert concept_words(shared_model("gpt2"), named, None) == ("t9",)
    assert concept_words(shared_model("gpt2"), UnlearnData((Item("", "t5 t6 t7"),)), None) == ()


def test_words_that_the_tokenizer_cannot_spell_are_left_out_unless_the_user_named_them() -> None:
    # Bytes without merges: a Cyrillic letter is two tokens, neither of which is a letter.
    model = tiny_model("gpt2", tokenizer=byte_tokenizer(), vocab_size=300)
    data = UnlearnData((Item("q", "\u0434\u043e\u043c house"),))
    assert concept_words(model, data, None) == ("house",)
    assert concept_words(model, data, ["\u0434\u043e\u043c"]) == ("\u0434\u043e\u043c",)
