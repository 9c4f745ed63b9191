"""Text goes around a question without moving the words that call for its answer, and no further than positions go."""

import pytest

from hooked import Item
from tests.tiny import tiny_model
from vestige.attacks.prompts.framing import Form, about, fitted, form_of, in_front

LONG = " ".join(f"t{n % 90 + 3}" for n in range(30))


@pytest.mark.parametrize(
    ("prompt", "form"),
    [
        ("Question: Who wrote it?\nAnswer:", Form("Question: ", "Who wrote it?", "\nAnswer:")),
        ("question: what is the river of x? answer:", Form("question: ", "what is the river of x?", " answer:")),
        ("The capital of France is", Form("", "The capital of France is", "")),
        # A colon at the front alone announces nothing that anything answers.
        ("Note: the capital of France is", Form("", "Note: the capital of France is", "")),
        ("Q: a: b?\n\nA: ", Form("Q: ", "a: b?", "\n\nA: ")),
        ("### Ask:\nWho?\n\n### Reply:\n", Form("### Ask:\n", "Who?", "\n\n### Reply:\n")),
        ("answer:", Form("", "answer:", "")),
        ("", Form("", "", "")),
    ],
)
def test_a_prompt_is_split_at_its_outer_words_and_put_together_again(prompt: str, form: Form) -> None:
    assert form_of(prompt) == form
    assert form.ask(form.body) == prompt


def test_texts_stand_before_the_prompt_which_ends_as_it_did() -> None:
    item, dropped = in_front(tiny_model(), Item("t4 t5 answer:", "t6"), ["t7", "t8"], separator=" | ")
    assert item.prompt == "t7 | t8 | t4 t5 answer:"
    assert dropped == 0


def test_texts_without_room_are_dropped_whole_and_from_the_left() -> None:
    model = tiny_model()  # 64 positions
    item = Item("t4 t5", "t6 t7")
    found, dropped = in_front(model, item, [LONG, "t9 " + LONG, "t10 t11"], separator=" ")
    # BOS, 30 + 1, 2, 2 and the answer's 2 fit; another 30 do not.
    assert (found.prompt, dropped) == (f"t9 {LONG} t10 t11 t4 t5", 1)
    for extra in range(60):
        words = " ".join(["t3"] * extra)
        text, count = in_front(model, item, [words, "t9"], separator=" ")
        length = model.tokenize(text.prompt, answers=text.answer).ids.shape[1]
        assert length <= 64
        assert count == (1 + extra + 1 + 4 > 64)


def test_room_is_kept_for_what_is_generated() -> None:
    item = Item("t4 t5", "")
    assert in_front(tiny_model(), item, [LONG], separator=" ", room=31)[1] == 0
    assert in_front(tiny_model(), item, [LONG], separator=" ", room=32)[1] == 1


def test_a_prompt_that_fits_no_text_is_asked_alone() -> None:
    item = Item(f"{LONG} {LONG}", "t6")
    assert in_front(tiny_model(), item, [LONG, LONG]) == (item, 2)


def test_a_model_without_a_limit_drops_nothing() -> None:
    assert in_front(tiny_model("bloom"), Item("t4", "t6"), [LONG] * 5)[1] == 0


def test_a_long_prompt_loses_words_at_its_beginning() -> None:
    items = [Item("t4 t5", "t6"), Item(f"t8 {LONG} {LONG} t9 t10", "t6")]
    (same, cut), note = fitted(tiny_model(), items)
    assert same == items[0]
    assert cut.prompt == " ".join(items[1].prompt.split(" ")[-62:])
    assert note == "1 prompts had no room and lost words at their beginning"
    assert fitted(tiny_model(), items[:1])[1] == ""


def test_what_a_fact_is_about() -> None:
    assert about(Item("a", "b", subject="s", concept="c")) == "s"
    assert about(Item("a", "b", concept="c")) == "c"
    assert about(Item("a", "b")) == "the matter in question"
