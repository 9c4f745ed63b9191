"""Which tokens stand for a concept."""

from __future__ import annotations

import pytest
import torch

from hooked import HookedModel, VestigeError
from probes.lexicon import lexicon_weights, seed_text_weights
from tests.tiny import byte_tokenizer, shared_model, tiny_model

# In a byte-level tokenizer a word has another token after a space, which is written `Ġ`.
MERGES = (("d", "o"), ("do", "g"), ("Ġ", "dog"), ("c", "a"), ("ca", "t"), ("Ġ", "cat"))


@pytest.fixture(scope="module")
def model() -> HookedModel:
    tokenizer = byte_tokenizer(*MERGES)
    return tiny_model("llama", tokenizer=tokenizer, vocab_size=len(tokenizer))


def weights_by_token(model: HookedModel, weights: torch.Tensor) -> dict[str, float]:
    ids = weights.nonzero().flatten().tolist()
    return {model.tokenizer.convert_ids_to_tokens(i): float(weights[i]) for i in ids}


def test_both_spellings_of_a_word_count_and_fragments_count_less(model: HookedModel) -> None:
    found = weights_by_token(model, lexicon_weights(model, ["dog"]))
    assert found == pytest.approx({"dog": 0.5, "Ġdog": 0.5})
    # "dogs" is two tokens; its first is also a word by itself, and the larger weight stands.
    found = weights_by_token(model, lexicon_weights(model, ["dog", "dogs"]))
    assert found == pytest.approx({"dog": 0.4, "Ġdog": 0.4, "s": 0.2})


def test_spaces_around_a_word_change_nothing(model: HookedModel) -> None:
    assert torch.equal(lexicon_weights(model, [" dog "]), lexicon_weights(model, ["dog"]))


def test_tokens_without_letters_get_nothing(model: HookedModel) -> None:
    found = weights_by_token(model, lexicon_weights(model, ["dog!"]))
    assert set(found) == {"dog", "Ġdog"}


def test_a_text_gives_the_words_it_over_uses(model: HookedModel) -> None:
    text, background = " dog dog dog cat of" * 10, " cat cat of" * 30
    assert set(weights_by_token(model, seed_text_weights(model, text, background=background))) == {"Ġdog"}
    # Against a uniform vocabulary every word of the text stands out, apart from function words and lone letters.
    assert weights_by_token(model, seed_text_weights(model, text)) == pytest.approx({"Ġdog": 0.5, "Ġcat": 0.5})


def test_at_most_so_many_tokens_are_kept() -> None:
    model = shared_model()
    text = " ".join(f"t{i}" for i in range(10, 30)) * 1
    weights = seed_text_weights(model, (text + " ") * 20, most=5)
    assert int((weights > 0).sum()) == 5
    assert weights.nonzero().flatten().tolist() == [10, 11, 12, 13, 14]


def test_several_texts_are_one(model: HookedModel) -> None:
    one = seed_text_weights(model, [" dog", " dog"] * 8)
    assert weights_by_token(model, one) == pytest.approx({"Ġdog": 1.0})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "at least one word"),
        ("dog", "a list of at least one word.*got 'dog'"),
        (["dog", 3], "holds words, got 3"),
        (["!!"], "no token for the lexicon word '!!'"),
        ([" "], "no token for the lexicon word ' '"),
    ],
)
def test_lexicon_errors(model: HookedModel, words: object, message: str) -> None:
    with pytest.raises(VestigeError, match=message):
        lexicon_weights(model, words)  # type: ignore[arg-type]


def test_seed_text_errors(model: HookedModel) -> None:
    with pytest.raises(VestigeError, match="no token of the seed text is a word that could name a concept"):
        seed_text_weights(model, " a a")
    with pytest.raises(VestigeError, match="no token is over-represented in the seed text of 1 content tokens"):
        seed_text_weights(model, " dog", background=" dog dog dog")
    bare = HookedModel(model.model)
    with pytest.raises(VestigeError, match="needs a tokenizer"):
        lexicon_weights(bare, ["dog"])
