"""Items to token batches: what counts as an answer, and what is cut."""

from __future__ import annotations

import warnings

import pytest

from hooked import HookedModel, Item, VestigeError
from interventions.batches import encode, warn_of_cuts
from tests.tiny import shared_model, tiny_model


def without_bos() -> HookedModel:
    plain = tiny_model("gpt2")
    return HookedModel(plain.model, plain.tokenizer, default_prepend_bos=False)


def test_nothing_predicts_the_first_token() -> None:
    batch = encode(without_bos(), [Item("", "t5 t6 t7"), Item("t5", "t6 t7")])
    assert batch.answer.tolist() == [[False, True, True]] * 2
    with_bos = encode(shared_model("gpt2"), [Item("", "t5 t6 t7")])
    assert with_bos.answer.tolist() == [[False, True, True, True]]
    prompts = encode(without_bos(), [Item("t5", "")])
    assert not prompts.answer.any()
    with pytest.raises(VestigeError, match="the text 't5' is one token without a BOS in front"):
        encode(without_bos(), [Item("", "t5")])


def test_what_does_not_fit_is_counted() -> None:
    model = shared_model("gpt2")
    # The BOS takes one of the 64 positions.
    items = [Item("", " ".join(["t5"] * n)) for n in (3, 63, 64, 200)]
    with pytest.warns(UserWarning, match="2 of 4 items are longer than the model's 64 positions, and mine does not"):
        warn_of_cuts(model, items, method="mine")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_cuts(model, items[:2], method="mine")
