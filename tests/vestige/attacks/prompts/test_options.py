"""What a multiple choice offers."""

import pytest

from hooked import Item, VestigeError
from vestige.attacks.prompts.options import options_of


def test_wrong_answers_are_in_the_style_of_the_right_one() -> None:
    items = [
        Item("q", "b", paraphrased_answer="it is b", perturbed_answers=("it is c", "it is d", "it is c")),
        Item("q", "b", perturbed_answers=("b", "c")),
    ]
    assert options_of(items, attack="x") == [("it is b", "it is c", "it is d"), ("b", "c")]


def test_errors() -> None:
    with pytest.raises(VestigeError, match=r"x chooses among answers, and forget\[0\] has no wrong answers"):
        options_of([Item("q", "b", perturbed_answers=("b",))], attack="x")
    with pytest.raises(VestigeError, match=r"forget\[1\] has no answer"):
        options_of([Item("q", "b", perturbed_answers=("c",)), Item("q", "")], attack="x")
