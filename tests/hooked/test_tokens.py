"""Text to tokens: one BOS, never two; and which tokens are the answer's, with every kind of tokenizer."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from hooked import HookedModel, VestigeError
from hooked.text import encode, join
from tests.data_folder import data_path
from tests.tiny import BOS, byte_tokenizer, random_ids, shared_model, tiny_hugging_face, tiny_model, tiny_tokenizer


def strings(tokenizer: Any, ids: list[int], flags: list[bool]) -> tuple[list[str], list[str]]:
    """The tokens of the prompt and those of the answer."""
    tokens = tokenizer.convert_ids_to_tokens(ids)
    return [t for t, f in zip(tokens, flags, strict=True) if not f], [
        t for t, f in zip(tokens, flags, strict=True) if f
    ]


@pytest.mark.parametrize(
    ("prompt", "answer", "joined"),
    [
        ("Q: who?", "Ann", "Q: who? Ann"),
        ("Q: who?", " Ann", "Q: who? Ann"),
        ("Q: who? ", "Ann", "Q: who? Ann"),
        ("Q:\n", "Ann", "Q:\nAnn"),
        ("", "Ann", "Ann"),
        ("Q:", "", "Q:"),
    ],
)
def test_one_space_joins_prompt_and_answer_unless_there_is_some(prompt: str, answer: str, joined: str) -> None:
    assert join(prompt, answer) == joined


@pytest.mark.parametrize("text", ["t4 t5", "<bos> t4 t5"])
@pytest.mark.parametrize(("prepend", "count"), [(True, 1), (None, 1)])
def test_there_is_one_bos_also_where_the_text_brings_it(
    model: HookedModel, text: str, prepend: bool | None, count: int
) -> None:
    """P7."""
    ids = model.tokenize(text, prepend_bos=prepend).ids[0].tolist()
    assert ids == [BOS, 4, 5]
    assert ids.count(BOS) == count


def test_no_bos_is_honoured_by_every_entry_point(model: HookedModel) -> None:
    """P6."""
    plain = torch.tensor([[4, 5]])
    wanted = model.logits(plain)
    assert model.tokenize("t4 t5", prepend_bos=False).ids.tolist() == [[4, 5]]
    assert torch.equal(model.to_tokens("t4 t5", prepend_bos=False), plain)
    assert model.to_str_tokens("t4 t5", prepend_bos=False) == ["t4", "t5"]
    assert torch.equal(model.logits("t4 t5", prepend_bos=False), wanted)
    assert torch.equal(model.run_with_cache("t4 t5", names_filter="final", prepend_bos=False)[0], wanted)
    assert torch.equal(model.run_with_hooks("t4 t5", prepend_bos=False), wanted)
    without = model.generate_tokens("t4 t5", max_new_tokens=3, prepend_bos=False)
    assert without == model.generate_tokens(model.as_batch(plain), max_new_tokens=3)
    assert model.generate("t4 t5", max_new_tokens=3, prepend_bos=False) == [model.to_string(without[0])]
    never = HookedModel(model.model, model.tokenizer, default_prepend_bos=False)
    assert torch.equal(never.logits("t4 t5"), wanted)
    assert never.tokenize("t4 t5", prepend_bos=True).ids.tolist() == [[BOS, 4, 5]]


def test_a_tokenizer_without_bos_gets_none() -> None:
    """P7: and never EOS in its place."""
    model = tiny_model(tokenizer=tiny_tokenizer(bos=False))
    assert model.tokenize("t4 t5", prepend_bos=True).ids.tolist() == [[4, 5]]


@pytest.mark.parametrize(("eos", "filler"), [(True, 2), (False, 0)])
def test_a_tokenizer_without_padding_pads_with_what_there_is(eos: bool, filler: int) -> None:
    """B9: what is written there is masked anyway."""
    model = tiny_model(tokenizer=tiny_tokenizer(pad=False, eos=eos))
    batch = model.tokenize(["t4 t5 t6", "t7"])
    assert batch.ids[1, :2].tolist() == [filler, filler]
    assert batch.mask[1].tolist() == [False, False, True, True]
    assert len(model.generate(["t4 t5 t6", "t7"], max_new_tokens=2)) == 2


def test_without_a_tokenizer_ids_work_and_text_says_what_is_missing() -> None:
    """B9."""
    model = HookedModel(shared_model().model)
    assert model.logits(torch.tensor([[4, 5]])).shape == (1, 2, 99)
    assert len(model.generate_tokens(model.as_batch(torch.tensor([[4, 5]])), max_new_tokens=3)[0]) == 3
    for call in (
        lambda: model.logits("t4"),
        lambda: model.generate("t4"),
        lambda: model.to_string([4]),
        lambda: model.generate(model.as_batch(torch.tensor([[4]]))),
    ):
        with pytest.raises(VestigeError, match=r"no tokenizer.*pass tokenizer= to use text"):
            call()


@pytest.mark.parametrize("state", ["padding", "truncation", "side", "called"])
def test_the_state_a_tokenizer_was_left_in_does_not_matter(state: str) -> None:
    """P4, P5: padding, truncation and side set by an earlier call."""
    model = tiny_model()
    texts = ["t4 t5 t6 t7 t8", "t9"]
    wanted = model.tokenize(texts, answers=["t10", "t11 t12"])
    if state == "padding":
        model.tokenizer.backend_tokenizer.enable_padding(length=30)
    elif state == "truncation":
        model.tokenizer.backend_tokenizer.enable_truncation(2)
    elif state == "side":
        model.tokenizer.padding_side = "right"
        model.tokenizer.truncation_side = "left"
    else:
        model.tokenizer(texts, padding="max_length", max_length=9, truncation=True)
    got = model.tokenize(texts, answers=["t10", "t11 t12"])
    assert torch.equal(got.ids, wanted.ids)
    assert torch.equal(got.mask, wanted.mask)
    assert torch.equal(got.answer, wanted.answer)
    if state == "side":
        assert model.tokenizer.padding_side == "right"


def test_a_single_answer_may_be_a_plain_string(model: HookedModel) -> None:
    batch = model.tokenize("t4", answers="t5 t6")
    assert batch.answer.tolist() == [[False, False, True, True]]
    with pytest.raises(VestigeError, match="2 prompts but 1 answers"):
        model.tokenize(["t4", "t5"], answers=["t6"])
    with pytest.raises(VestigeError, match="an answer is text, got int"):
        model.tokenize(["t4"], answers=[3])  # type: ignore[list-item]


@pytest.mark.parametrize("answer", [" ", "\n"])
def test_an_answer_without_a_token_is_refused(model: HookedModel, answer: str) -> None:
    with pytest.raises(VestigeError, match="the tokenizer gives no token for the answer"):
        model.tokenize("t4", answers=answer)


def test_a_text_without_a_token_is_refused_unless_bos_stands_for_it(model: HookedModel) -> None:
    assert model.tokenize("").ids.tolist() == [[BOS]]
    with pytest.raises(VestigeError, match="the tokenizer gives no token for ''"):
        model.tokenize("", prepend_bos=False)


def test_plain_ids_refuse_texts_of_different_lengths(model: HookedModel) -> None:
    assert model.to_tokens(["t4 t5", "t6 t7"]).tolist() == [[BOS, 4, 5], [BOS, 6, 7]]
    with pytest.raises(VestigeError, match="use tokenize"):
        model.to_tokens(["t4 t5", "t6"])
    with pytest.raises(VestigeError, match="takes one text, got 2"):
        model.to_str_tokens(["t4", "t5"])
    assert model.to_str_tokens(torch.tensor([4, 5])) == ["t4", "t5"]


def test_the_space_before_an_answer_belongs_to_the_answers_first_token() -> None:
    """A GPT-2 style token carries the space in front of its word."""
    tokenizer = byte_tokenizer(("Ġ", "A"), ("ĠA", "n"), ("ĠAn", "n"))
    for prompt, answer in (("who?", "Ann"), ("who?", " Ann"), ("who? ", "Ann")):
        ids, flags = encode(tokenizer, [prompt], [answer], prepend_bos=False)[0]
        assert strings(tokenizer, ids, flags) == (["w", "h", "o", "?"], ["ĠAnn"])


def test_a_token_that_straddles_the_boundary_counts_as_answer() -> None:
    """The last letters of the prompt and the first of the answer may be one token: its loss is the answer's."""
    tokenizer = byte_tokenizer((":", "Ġ"), (":Ġ", "A"), (":ĠA", "n"))
    ids, flags = encode(tokenizer, ["Q:"], ["Ann"], prepend_bos=True)[0]
    assert strings(tokenizer, ids, flags) == (["<bos>", "Q"], [":ĠAn", "n"])
    glued = byte_tokenizer(("a", "b"))
    ids, flags = encode(glued, ["xa\n"], ["bz"], prepend_bos=False)[0]
    assert strings(glued, ids, flags) == (["x", "a", "Ċ"], ["b", "z"])


def test_letters_that_are_several_tokens_all_count() -> None:
    """One character of the answer in several byte tokens."""
    tokenizer = byte_tokenizer()
    ids, flags = encode(tokenizer, ["né"], ["é€"], prepend_bos=False)[0]
    prompt, answer = strings(tokenizer, ids, flags)
    assert len(prompt) == 4  # n, two bytes, and the space, which is a token of its own here
    assert len(answer) == 5


def sentencepiece_tokenizer() -> Any:
    """A tokenizer in the manner of Llama: spaces become `▁`, and one is put in front of every text."""
    from tokenizers import Tokenizer, decoders, models, normalizers
    from transformers import PreTrainedTokenizerFast

    words = ["<unk>", "<s>", "</s>", "▁", *"Qwho?Ansd:.", "▁Ann", "▁who", "▁Q:"]
    vocab = {word: i for i, word in enumerate(dict.fromkeys(words))}
    merges = [("▁", "A"), ("▁A", "n"), ("▁An", "n"), ("▁", "w"), ("▁w", "h"), ("▁wh", "o"), ("▁", "Q"), ("▁Q", ":")]
    for left, right in merges:
        vocab.setdefault(left + right, len(vocab))
    core = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    core.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_a_sentencepiece_tokenizer_marks_the_answer_by_its_characters() -> None:
    tokenizer = sentencepiece_tokenizer()
    ids, flags = encode(tokenizer, ["Q: who?"], ["Ann."], prepend_bos=True)[0]
    assert strings(tokenizer, ids, flags) == (["<s>", "▁Q:", "▁who", "?"], ["▁Ann", "."])
    ids, flags = encode(tokenizer, [""], ["Ann."], prepend_bos=True)[0]
    assert strings(tokenizer, ids, flags) == (["<s>"], ["▁Ann", "."])


def test_a_tokenizer_without_offsets_marks_the_answer_where_tokens_begin_to_differ() -> None:
    """Slow tokenizers; a straddling token counts as answer there too."""
    inner = byte_tokenizer((":", "Ġ"), (":Ġ", "A"), (":ĠA", "n"))

    class Slow(SimpleNamespace):
        def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
            return {"input_ids": inner(text, add_special_tokens=False)["input_ids"]}

    slow: Any = Slow(is_fast=False, bos_token_id=1)
    found = encode(slow, ["Q:", "who?", "who?"], ["Ann", "Bob", ""], prepend_bos=True)
    assert found[:1] == encode(inner, ["Q:"], ["Ann"], prepend_bos=True)
    assert [flags for _, flags in found[1:]] == [[False] * 5 + [True] * 4, [False] * 5]


@pytest.mark.parametrize("name", ["stories260K-hf", "babyllama361-hf"])
def test_real_tokenizers_split_prompt_and_answer_at_the_right_character(name: str) -> None:
    """Answers of real words, whatever the tokens are: the answer's tokens decode to the answer."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(data_path("models", name))
    pairs = [("Once upon a time there was a", "little dog."), ("Lily saw a big", "ball"), ("Tom said:", '"Hi!"')]
    for prompt, answer in pairs:
        ids, flags = encode(tokenizer, [prompt], [answer], prepend_bos=True)[0]
        assert ids[0] == tokenizer.bos_token_id
        assert ids.count(tokenizer.bos_token_id) == 1
        assert flags == sorted(flags)
        kept = [i for i, flag in zip(ids, flags, strict=True) if flag]
        assert tokenizer.decode(kept).strip() == answer
        head = [i for i, flag in zip(ids, flags, strict=True) if not flag]
        assert tokenizer.decode(head, skip_special_tokens=True).strip() == prompt


@pytest.mark.parametrize("name", ["stories260K-hf", "babyllama361-hf"])
def test_a_real_model_repeats_the_starred_checks(name: str, rng: torch.Generator) -> None:
    """B1*, C1*, C10*, P1*, R1*, R3*, R5* on trained weights."""
    from transformers import AutoModelForCausalLM

    path = data_path("models", name)
    model = HookedModel.from_pretrained(path, dtype="float32", attn_implementation="eager")
    texts = ["Once upon a time", "Lily and her dog went to the park. They"]
    batch = model.tokenize(texts)
    logits, cache = model.run_with_cache(batch)
    native = AutoModelForCausalLM.from_pretrained(path, attn_implementation="eager")
    ids = model.to_tokens(texts[1])
    assert torch.equal(model.logits(ids), native(ids).logits)
    alone_logits, alone = model.run_with_cache(texts[0])
    real = batch.mask[0]
    assert float((logits[0, real] - alone_logits[0]).abs().max()) < 1e-4
    for site in model.sites:
        assert float((cache[site][0, real] - alone[site][0]).abs().max()) < 1e-4, site
    for i in range(model.n_layers):
        assert torch.equal(alone["resid_pre", i] + alone["attn_out", i], alone["resid_mid", i])
        assert torch.equal(alone["resid_mid", i] + alone["mlp_out", i], alone["resid_post", i])
        assert float((alone["mlp_post", i] @ model.value_vectors(i) - alone["mlp_out", i]).abs().max()) < 1e-4
    assert torch.equal(model.lens(alone["resid_post", -1]), alone_logits)
    for site in ("resid_pre.1", "resid_mid.0", "mlp_post.2", "z.1"):
        changed = model.run_with_hooks(texts[0], fwd_hooks=[(site, lambda a, hook: torch.zeros_like(a))])
        assert float((changed - alone_logits).abs().max()) > 0.1
    long, short = model.generate(texts, max_new_tokens=8), [model.generate(t, max_new_tokens=8)[0] for t in texts]
    assert long == short
    assert model.generate(texts, max_new_tokens=8, use_cache=False) == long


def test_ids_that_were_made_elsewhere_go_in_as_they_are(rng: torch.Generator) -> None:
    model = HookedModel(tiny_hugging_face("llama"), tiny_tokenizer())
    ids = random_ids(rng, 1, 5)
    assert torch.equal(model.logits(ids[0]), model.logits(ids))
    assert torch.equal(model.logits(ids.int()), model.logits(ids))
