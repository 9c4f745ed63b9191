"""The tokenizer gives every world sentence back, adds one BOS, and knows every ASCII character."""

import string
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from vestige.organism.documents import document
from vestige.organism.tokenizer import BOS, make_tokenizer, vocabulary
from vestige.organism.world import World, make_world


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(0)


@pytest.fixture(scope="module")
def tokenizer(world: World) -> PreTrainedTokenizerFast:
    return make_tokenizer(world)


def test_every_sentence_comes_back(world: World, tokenizer: PreTrainedTokenizerFast) -> None:
    texts = sorted({document(world, i, seed=0) for i in range(4000)})
    ids = tokenizer(texts).input_ids
    assert tokenizer.batch_decode(ids, skip_special_tokens=True) == texts
    assert not any(tokenizer.unk_token_id in row for row in ids)


def test_bos_is_added_exactly_once(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("the capital").input_ids
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.bos_token_id not in tokenizer("the capital", add_special_tokens=False).input_ids
    assert tokenizer(BOS + "x", add_special_tokens=False).input_ids[0] == tokenizer.bos_token_id


def test_names_are_two_pieces_and_value_words_one(world: World, tokenizer: PreTrainedTokenizerFast) -> None:
    for row in world.facts:
        concept = row[0].concept
        assert tokenizer.tokenize(concept.name) == [concept.onset, f"##{concept.coda}"]
        for fact in row:
            assert tokenizer.tokenize(fact.value) == fact.value.split()


def test_digits_are_single_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("12 + 345") == ["1", "##2", "+", "3", "##4", "##5"]


def test_ascii_has_no_unknown_token_and_the_rest_has_one(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer(string.printable + " Hello, World! foo_bar(baz)[0] = {'k': 3.14e-9};").input_ids
    assert tokenizer.unk_token_id not in ids
    assert tokenizer("ж").input_ids[-1] == tokenizer.unk_token_id


def test_saving_keeps_it(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    text = "question: what is the capital of brinandor? answer:"
    assert again(text).input_ids == tokenizer(text).input_ids
    assert again.decode(again(text).input_ids, skip_special_tokens=True) == text


def test_vocabulary_has_no_double_and_the_planned_size(world: World) -> None:
    pieces = vocabulary(world)
    assert len(set(pieces)) == len(pieces)
    assert 800 <= len(pieces) <= 1200
