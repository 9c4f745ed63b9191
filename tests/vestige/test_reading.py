"""Readings against a slow per-item oracle, under any batching, and through a decoder that no edit reaches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from hooked import HookedModel, Intervention, Item, Spec, UnlearnData, VestigeError, WeightPatch
from interventions import ablate_vectors
from tests.tiny import byte_tokenizer, shared_model, tiny_model, tiny_tokenizer
from tests.vestige.facts import fingerprint, small_data
from vestige.items import audit_items
from vestige.reading import Reading, last_prompt_residuals, read, read_split, score
from vestige.result import SubjectInfo
from vestige.subjects import Source, opened

FAMILIES = ("gpt2", "llama", "gemma2")
PAIRS = [
    ("t5 t6", "t7"),
    ("t9", "t10 t11 t12"),
    ("t3 t4 t5 t6 t7 t8 t9", "t20 t21"),
    ("t40", "t41"),
    ("t9", "t50 t51 t52 t53 t54"),
    # These share a prompt, and one is how another begins.
    ("t9", "t10"),
    ("t9", "t10 t11 t20"),
    ("t9", "t10 t11 t12 t13"),
    # The same tokens, of which the answer has fewer.
    ("t9 t10", "t11 t12"),
]
DATA = audit_items(small_data(), max_items=50, seed=0)


@torch.no_grad()
def one_by_one(model: HookedModel, prompt: str, answer: str) -> tuple[list[float], list[int], list[int]]:
    """Score the answer alone in its batch, unpadded, one token after the other, each from the text before it."""
    ids = [1, *model.tokenizer(f"{prompt} {answer}", add_special_tokens=False)["input_ids"]]
    n = len(model.tokenizer(answer, add_special_tokens=False)["input_ids"])
    log_probs, firsts = [], []
    for at in range(len(ids) - n, len(ids)):
        logits = model.model(torch.tensor([ids[:at]])).logits[0, -1].double()
        log_probs.append(float(logits.log_softmax(-1)[ids[at]]))
        firsts.append(int(logits.argmax()))
    return log_probs, firsts, ids[len(ids) - n :]


def reading_of(source: Source, original: HookedModel, **changes: object) -> Reading:
    settings = {"vectors": [(0, 1), (2, 3)], "batch_size": 4, "max_new_tokens": 3, "seed": 0} | changes
    decoder = original.decoder.frozen()
    with opened(SubjectInfo("x", "unlearned"), source, original=original) as subject:
        return read(subject, DATA, decoder=decoder, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_equal_a_slow_oracle(family: str) -> None:
    model = shared_model(family)
    for (prompt, answer), found in zip(PAIRS, score(model, PAIRS, batch_size=3), strict=True):
        log_probs, firsts, labels = one_by_one(model, prompt, answer)
        assert found.log_probs == pytest.approx(log_probs, abs=2e-4)
        assert found.predictions == tuple(firsts)
        assert found.labels == tuple(labels)
        assert found.nll == pytest.approx(-np.mean(log_probs), abs=2e-4)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("batch_size", [1, 2, 50])
def test_batches_and_padding_change_nothing(family: str, batch_size: int) -> None:
    model = shared_model(family)
    whole, parts = score(model, PAIRS, batch_size=5), score(model, PAIRS, batch_size=batch_size)
    for one, other in zip(whole, parts, strict=True):
        assert one.log_probs == pytest.approx(other.log_probs, abs=2e-4)
        assert (one.predictions, one.labels) == (other.predictions, other.labels)
    prompts = [prompt for prompt, _ in PAIRS]
    assert last_prompt_residuals(model, prompts, batch_size=5) == pytest.approx(
        last_prompt_residuals(model, prompts, batch_size=batch_size), abs=2e-4
    )


def test_answers_to_one_prompt_share_its_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that begin another with the same prompt are not run; the same tokens with another prompt are."""
    model, rows = shared_model("llama"), []
    logits = HookedModel.logits
    monkeypatch.setattr(HookedModel, "logits", lambda self, batch: rows.append(len(batch)) or logits(self, batch))
    found = score(model, PAIRS, batch_size=64)
    # "t9" with "t10", "t10 t11 t12" or "t10 t11 t20" needs nothing that the row of "t10 t11 t12 t13" does not hold.
    assert sum(rows) == len(PAIRS) - 3
    alone = [score(model, [pair], batch_size=1)[0] for pair in PAIRS]
    assert [s.predictions for s in found] == [s.predictions for s in alone]


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_hidden_states_are_those_of_hugging_face(family: str) -> None:
    model = shared_model(family)
    prompts = [prompt for prompt, _ in PAIRS]
    found = last_prompt_residuals(model, prompts, batch_size=2)
    assert found.shape == (len(PAIRS), model.n_layers, model.d_model)
    for row, prompt in zip(found, prompts, strict=True):
        ids = torch.tensor([[1, *model.tokenizer(prompt, add_special_tokens=False)["input_ids"]]])
        states = model.model(ids, output_hidden_states=True).hidden_states
        # The last of them has passed the final norm; all others are outputs of blocks.
        for layer in range(model.n_layers - 1):
            assert row[layer] == pytest.approx(states[layer + 1][0, -1].numpy(), abs=2e-4)
        last = model.final_norm(torch.from_numpy(row[-1]))
        assert last.numpy() == pytest.approx(states[-1][0, -1].numpy(), abs=2e-4)


def test_continuations_are_those_of_greedy_decoding() -> None:
    model = shared_model("gpt2")
    split = read_split(model, DATA.forget, batch_size=2, max_new_tokens=6)
    for item, text, ids in zip(DATA.forget, split.texts, split.token_ids, strict=True):
        assert [text] == model.generate(item.prompt, max_new_tokens=6)
        assert len(ids) <= 6
        assert model.tokenizer.decode(list(ids), skip_special_tokens=True) == text


def test_wrong_answers_and_bases_are_scored_for_their_own_item() -> None:
    model = shared_model("gpt2")
    items = (
        Item("t5 t6", "t7", paraphrased_answer="t8 t9", perturbed_answers=("t10", "t11 t12")),
        Item("t13", "t14"),
        Item("t15", "t16", perturbed_answers=("t17",)),
    )
    split = read_split(model, items, batch_size=2, max_new_tokens=1)
    alone = {
        pair: score(model, [pair], batch_size=1)[0]
        for pair in [("t5 t6", "t8 t9"), ("t5 t6", "t11 t12"), ("t15", "t17")]
    }
    assert [len(row) for row in split.wrong] == [2, 0, 1]
    for found, pair in (
        (split.bases[0], ("t5 t6", "t8 t9")),
        (split.wrong[0][1], ("t5 t6", "t11 t12")),
        (split.wrong[2][0], ("t15", "t17")),
    ):
        assert found.log_probs == pytest.approx(alone[pair].log_probs, abs=2e-4)
    assert split.bases[1:] == split.answers[1:]
    assert split.first_token == (7, 14, 16)


def test_reading_twice_gives_the_same_and_changes_nothing() -> None:
    model = tiny_model("llama")
    before, data = fingerprint(model), repr(DATA)
    first, second = (reading_of(model, model) for _ in range(2))
    same(first, second)
    assert fingerprint(model) == before
    assert repr(DATA) == data
    assert not any(p.grad is not None for p in model.model.parameters())


def same(one: object, other: object) -> None:
    """Assert that two readings are equal to the last bit."""
    if isinstance(one, torch.Tensor | np.ndarray):
        assert np.array_equal(np.asarray(one), np.asarray(other))
    elif isinstance(one, Mapping):
        assert isinstance(other, Mapping)
        assert list(one) == list(other)
        for key in one:
            same(one[key], other[key])
    elif hasattr(one, "__dataclass_fields__"):
        for field in fields(one):  # type: ignore[arg-type]
            same(getattr(one, field.name), getattr(other, field.name))
    else:
        assert one == other


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_an_edit_of_the_unembedding_does_not_change_what_the_lens_and_the_probe_read(family: str) -> None:
    """Decoder swap. GPT-2 ties its embedding, whose edit would reach the residual stream, so there it is untied."""
    model = tiny_model(family, tie_word_embeddings=False)
    turned = WeightPatch.between(
        {"lm_head.weight": model.state()["lm_head.weight"]}, {"lm_head.weight": -model.state()["lm_head.weight"]}
    )
    before, after = reading_of(model, model), reading_of(Intervention(Spec("turn", "removal"), weights=turned), model)
    assert before.forget.answers != after.forget.answers
    same(before.lens_rank, after.lens_rank)
    same(before.lens_floor_rank, after.lens_floor_rank)
    same(before.forget.hidden, after.forget.hidden)


def test_a_tied_embedding_edited_in_place_does_not_reach_the_frozen_decoder() -> None:
    model = tiny_model("gpt2")
    frozen, resid = model.decoder.frozen(), torch.ones(1, model.d_model)
    before = frozen.lens(resid).clone()
    name = "transformer.wte.weight"
    patch = WeightPatch.between({name: model.state()[name]}, {name: torch.zeros_like(model.state()[name])})
    with Intervention(Spec("wipe", "removal"), weights=patch).applied(model):
        assert not model.lens(resid).any()
        assert torch.equal(frozen.lens(resid), before)


def test_raw_scores_are_those_without_edits() -> None:
    model = shared_model("gpt2")
    quiet = Intervention(Spec("quiet", "suppression"), edits={"blocks.1.hook_mlp_out": lambda acts, hook: acts * 0})
    plain, edited = reading_of(model, model), reading_of(quiet, model)
    assert edited.forget.answers != plain.forget.answers
    assert edited.raw_forget == plain.raw_forget == plain.forget.answers


def test_answers_are_scored_after_the_reworded_question_too() -> None:
    model = shared_model("gpt2")
    items = (Item("t5", "t6"), Item("t7", "t8 t9", paraphrased_prompt="t10 t11"))
    with opened(SubjectInfo("x", "original"), model, original=model) as subject:
        given = UnlearnData(items)
        found = read(subject, given, decoder=model.decoder, vectors=(), batch_size=4, max_new_tokens=1, seed=0)
    assert len(found.reworded) == 1
    assert found.reworded[0].log_probs == pytest.approx(one_by_one(model, "t10 t11", "t8 t9")[0], abs=2e-4)


def test_value_rows_are_the_patched_ones_and_copies() -> None:
    model = tiny_model("gpt2")
    plain, edited = reading_of(model, model), reading_of(ablate_vectors(model, [(0, 1)], mode="zero"), model)
    assert plain.value_rows[0, 1] == pytest.approx(model.value_vectors(0)[1].detach().numpy())
    assert not edited.value_rows[0, 1].any()
    assert np.array_equal(edited.value_rows[2, 3], plain.value_rows[2, 3])
    with torch.no_grad():
        model.value_vectors(0)[1].zero_()
    assert plain.value_rows[0, 1].any()


def test_a_model_of_another_shape_lacks_some_rows() -> None:
    original = tiny_model("gpt2")
    small = tiny_model("gpt2", n_layer=2, n_inner=2)
    rows = reading_of(small, original).value_rows
    assert set(rows) == {(0, 1)}


def test_one_item_is_read_without_a_lens_floor() -> None:
    model = shared_model("gpt2")
    data = replace(DATA, forget=DATA.forget[:1])
    with opened(SubjectInfo("x", "original"), model, original=model) as subject:
        found = read(subject, data, decoder=model.decoder, vectors=(), batch_size=4, max_new_tokens=1, seed=0)
    assert found.lens_rank.shape == (model.n_layers, 1)
    assert found.lens_floor_rank.numel() == 0


def test_missing_splits_are_none() -> None:
    model = shared_model("gpt2")
    with opened(SubjectInfo("x", "original"), model, original=model) as subject:
        bare = UnlearnData(DATA.forget)
        found = read(subject, bare, decoder=model.decoder, vectors=(), batch_size=4, max_new_tokens=1, seed=0)
    assert found.retain is None
    assert found.control is None


def test_an_answer_that_follows_nothing_is_refused_by_name() -> None:
    model = tiny_model("gpt2", tokenizer=tiny_tokenizer(bos=False))
    with pytest.raises(VestigeError, match="no token of the answer 't5' follows"):
        score(model, [("t3", "t4"), ("", "t5")], batch_size=2)


def test_text_of_any_script_is_scored() -> None:
    model = tiny_model("gpt2", tokenizer=byte_tokenizer(), vocab_size=300)
    pairs = [("\u0433\u0434\u0435?", "\u0434\u043e\u043c"), ("caf\u00e9", "\U0001f600"), ("a", "b")]
    found = score(model, pairs, batch_size=2)
    # One token a byte, and the space before it belongs to the prompt.
    assert [len(one.labels) for one in found] == [6, 4, 1]
    assert found == score(model, pairs, batch_size=2)
