"""Places by hand: the position before every asked token, whatever the tokenizer, the padding and the batches."""

from __future__ import annotations

import pytest
import torch

from hooked import HookedModel, Item, VestigeError
from tests.tiny import BOS, byte_tokenizer, tiny_model, tiny_tokenizer
from vestige.intrinsic.spans import Spans, answer_spans


def bytes_model() -> HookedModel:
    """A model of bytes: one token per character, the space before a word its own."""
    return tiny_model("gpt2", tokenizer=byte_tokenizer(), vocab_size=300, n_positions=128)


def asked(model: HookedModel, spans: Spans, item: int = 0) -> str:
    """The text of the asked tokens."""
    return model.to_string([spans.ids[item][place + 1] for place in spans.places[item]])


def test_places_lie_one_before_the_answers_tokens() -> None:
    spans = answer_spans(tiny_model("gpt2"), [Item("t5 t6", "t7 t8"), Item("t9", "t10")])
    assert spans.ids == ((BOS, 5, 6, 7, 8), (BOS, 9, 10))
    assert spans.answer == ((False, False, False, True, True), (False, False, True))
    assert spans.places == ((2, 3), (1,))
    assert (len(spans), spans.n_places, spans.owner.tolist()) == (2, 3, [0, 0, 1])


def test_batches_hold_every_place_once_with_the_token_that_follows(spans: Spans) -> None:
    for size in (1, 2, 50):
        seen: dict[int, int] = {}
        for rows in spans.batches(size):
            assert len(rows.items) <= size
            for row, column, target, at in zip(rows.row, rows.column, rows.target, rows.at, strict=True):
                assert rows.batch.ids[row, column + 1] == target
                assert rows.batch.answer[row, column + 1]
                assert bool(rows.batch.mask[row, : column + 2].all())
                seen[int(at)] = int(target)
        flat = [ids[place + 1] for ids, own in zip(spans.ids, spans.places, strict=True) for place in own]
        assert [seen[n] for n in range(spans.n_places)] == flat


def test_the_name_of_the_subject_is_not_asked_for_again() -> None:
    model = bytes_model()
    item = Item("where was Ada born?", "Ada was born in Rome.", subject="Ada")
    assert asked(model, answer_spans(model, [item])) == " was born in Rome."


@pytest.mark.parametrize(
    "item",
    [
        # The prompt does not give the name away; the name is all there is; nothing was said of a subject.
        Item("who wrote it?", "Ada did", subject="Ada"),
        Item("is it Ada or Bob?", "Ada.", subject="Ada"),
        Item("where was Ada born?", "Ada of Rome"),
    ],
)
def test_a_name_that_is_the_fact_is_asked_for(item: Item) -> None:
    model = bytes_model()
    assert asked(model, answer_spans(model, [item])) == item.answer


def test_entities_are_found_in_answers_and_others_are_left_out() -> None:
    model = bytes_model()
    items = [Item("where?", "he was born in Rome, a city"), Item("when?", "in spring"), Item("who?", "Romelia")]
    spans = answer_spans(model, items, entities=["Rome", "autumn", "Rome"])
    assert asked(model, spans) == "Rome"
    assert spans.places[1:] == ((), ())
    assert [rows.items for rows in spans.batches(8)] == [(0,)]


def test_an_answer_that_follows_nothing_has_no_place() -> None:
    model = tiny_model("gpt2", tokenizer=tiny_tokenizer(bos=False))
    assert answer_spans(model, [Item("", "t5")]).places == ((),)
    assert answer_spans(model, [Item("", "t5 t6")]).places == ((0,),)


def test_without_items_there_are_no_batches() -> None:
    assert list(answer_spans(tiny_model("gpt2"), []).batches(4)) == []
    assert answer_spans(tiny_model("gpt2"), []).owner.dtype == torch.long


def test_refusals() -> None:
    model = tiny_model("gpt2")
    with pytest.raises(VestigeError, match="one entity per item is needed, got 1 for 2 items"):
        answer_spans(model, [Item("t5", "t6")] * 2, entities=["t6"])
    with pytest.raises(VestigeError, match=r"item 1 \('t7'\) has no answer whose tokens could be patched"):
        answer_spans(model, [Item("t5", "t6"), Item("t7", "")])
