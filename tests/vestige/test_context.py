"""Items are shortened to the model's positions and no further."""

from __future__ import annotations

from hooked import HookedModel, Item, UnlearnData
from tests.tiny import tiny_model
from vestige.context import within_context

LONG = " ".join(f"t{3 + i % 40}" for i in range(100))


def _length(model: HookedModel, prompt: str, answer: str = "") -> int:
    return int(model.tokenize([prompt], answers=[answer]).ids.shape[1])


def test_a_long_prompt_loses_its_beginning_and_keeps_its_end() -> None:
    model = tiny_model("gpt2")
    limit = model.config.max_position_embeddings
    item = Item(f"{LONG} t7 t8", "t9 t10", perturbed_answers=("t11 t12 t13",))
    assert _length(model, item.prompt, item.answer) > limit
    data, shortened = within_context(model, UnlearnData((item,)), max_new_tokens=5)
    fitted = data.forget[0]
    assert shortened == 1
    assert item.prompt.endswith(fitted.prompt)
    assert fitted.prompt.endswith("t7 t8")
    assert fitted.answer == item.answer
    assert max(_length(model, fitted.prompt, "t11 t12 t13"), _length(model, fitted.prompt) + 5) <= limit
    # A tenth of the words goes at a time, so no more than about a tenth is lost needlessly.
    assert _length(model, fitted.prompt, "t11 t12 t13") > 0.8 * limit


def test_a_long_answer_loses_its_end() -> None:
    model = tiny_model("gpt2")
    data, shortened = within_context(model, UnlearnData((Item("t4", LONG),)), max_new_tokens=5)
    fitted = data.forget[0]
    assert shortened == 1
    assert fitted.prompt == "t4"
    assert LONG.startswith(fitted.answer)
    assert _length(model, fitted.prompt, fitted.answer) <= model.config.max_position_embeddings


def test_short_items_are_left_as_they_are() -> None:
    model = tiny_model("llama")
    data = UnlearnData((Item("t4 t5", "t6"),), retain=(Item("t7", "t8"),))
    assert within_context(model, data, max_new_tokens=5) == (data, 0)
