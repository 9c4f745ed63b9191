"""Padding: a padded row is the same text, at every site, on either side, with every kind of position."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hooked import HookedModel, TokenBatch, VestigeError
from hooked.tokens import pad_rows
from tests.numerics import FLOAT32, error
from tests.tiny import FAMILIES, LEARNED_POSITIONS, PAD, random_ids, shared_model, tiny_model, words

LENGTHS = (3, 9, 6)


@pytest.fixture
def texts(rng: torch.Generator) -> list[str]:
    return [words(random_ids(rng, 1, n)[0]) for n in LENGTHS]


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_padded_row_equals_the_unpadded_text_at_every_site(family: str, side: Any, texts: list[str]) -> None:
    """P1, P2, P10: sliding windows, learned positions, ALiBi and rotary positions alike."""
    model = shared_model(family)
    batch = model.tokenize(texts, padding_side=side)
    logits, cache = model.run_with_cache(batch)
    for row, text in enumerate(texts):
        alone_logits, alone = model.run_with_cache(text)
        real = batch.mask[row]
        assert error(logits[row, real], alone_logits[0]) < FLOAT32
        for site in model.sites:
            assert error(cache[site][row, real], alone[site][0]) < FLOAT32, site


@pytest.mark.parametrize("family", sorted(LEARNED_POSITIONS))
def test_the_native_call_with_only_a_mask_gets_learned_positions_wrong(family: str, texts: list[str]) -> None:
    """P2: why positions are always passed; without them the table is read at the padded column."""
    model = shared_model(family)
    batch = model.tokenize(texts)
    ours = model.logits(batch)
    assert model._geometry.takes_position_ids
    columns = torch.arange(batch.ids.shape[1]).expand_as(batch.ids)
    shifted = model.model(input_ids=batch.ids, attention_mask=batch.mask.long(), position_ids=columns).logits
    assert error(shifted[0, -1], ours[0, -1]) > 0.01
    assert error(shifted[1], ours[1]) < FLOAT32


def test_the_ids_in_padded_places_do_not_matter(model: HookedModel, texts: list[str]) -> None:
    """P3: neither to activations nor to the loss."""
    batch = model.tokenize(texts)
    other = TokenBatch(torch.where(batch.mask, batch.ids, 77), batch.mask, batch.answer)
    assert torch.equal(model.logits(batch)[batch.mask], model.logits(other)[batch.mask])
    assert torch.equal(model(batch, return_type="loss"), model(other, return_type="loss"))


@pytest.mark.parametrize("side", ["left", "right"])
def test_the_loss_of_a_padded_batch_is_that_of_its_rows(model: HookedModel, texts: list[str], side: Any) -> None:
    """P3."""
    batch = model.tokenize(texts, padding_side=side)
    counts = batch.mask.sum(-1) - 1
    rows = torch.stack([model(text, return_type="loss") for text in texts])
    assert error(model(batch, return_type="loss"), (rows * counts).sum() / counts.sum()) < FLOAT32


def test_both_sides_report_themselves_and_where_rows_begin_and_end(model: HookedModel) -> None:
    """P4."""
    for side in ("left", "right"):
        batch = model.tokenize(["t4 t5 t6", "t7"], answers=["t8", "t9 t10"], padding_side=side)
        assert batch.padding_side == side
        shift = 1 if side == "left" else 0
        assert batch.first.tolist() == [0, shift]
        assert batch.last.tolist() == [4, 3 + shift]
        assert batch.prompt_last.tolist() == [3, 1 + shift]
        assert batch.position_ids[batch.mask].tolist() == [0, 1, 2, 3, 4, 0, 1, 2, 3]
        assert torch.equal(batch.prompt | batch.answer, batch.mask)
        assert len(batch[1:]) == 1
        assert batch[1:].padded
    assert model.tokenize("t4 t5").padding_side is None
    with pytest.raises(VestigeError, match="padding_side is 'left' or 'right', got 'middle'"):
        model.tokenize(["t4", "t5 t6"], padding_side="middle")  # type: ignore[arg-type]


def test_a_row_that_is_all_answer_ends_its_prompt_at_its_first_token(model: HookedModel) -> None:
    batch = model.tokenize(["", "t4"], answers=["t5 t6", "t7"], prepend_bos=False)
    assert batch.prompt_last.tolist() == [0, 0]
    assert batch.prompt.tolist() == [[False, False], [True, False]]


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom"])
def test_every_public_reading_of_a_batch_equals_the_loop_over_prompts(family: str, texts: list[str]) -> None:
    """P10, P11."""
    model = shared_model(family)
    batch = model.tokenize(texts)
    residual, _ = model.run_with_cache(batch, stop_at_layer=2)
    edited = model.run_with_hooks(batch, fwd_hooks=[("resid_post.1", lambda a, hook: a * 1.5)])
    with torch.enable_grad():
        total, _, grads = model.gradients(batch, lambda x: x[:, -1, 4].sum(), names_filter="resid_post.0")
    alone_total = 0.0
    for row, text in enumerate(texts):
        real = batch.mask[row]
        assert error(residual[row, real], model.run_with_cache(text, stop_at_layer=2)[0][0]) < FLOAT32
        alone = model.run_with_hooks(text, fwd_hooks=[("resid_post.1", lambda a, hook: a * 1.5)])
        assert error(edited[row, real], alone[0]) < FLOAT32
        with torch.enable_grad():
            value, _, grad = model.gradients(text, lambda x: x[:, -1, 4].sum(), names_filter="resid_post.0")
        alone_total += float(value)
        assert error(grads["resid_post", 0][row, real], grad["resid_post", 0][0]) < FLOAT32
        assert error(model.logits(batch[row : row + 1])[0, real], model.logits(text)[0]) < FLOAT32
    assert abs(float(total) - alone_total) < 1e-4


def test_padded_ids_without_their_mask_are_refused(model: HookedModel) -> None:
    """P3."""
    left = torch.tensor([[PAD, 5, 6], [7, 8, 9]])
    for ids in (left, left.flip(1)):
        with pytest.raises(VestigeError, match=r"row 0 of the token ids begins or ends with padding \(0\)"):
            model.logits(ids)
    inside = torch.tensor([[5, PAD, 6], [7, 8, 9]])
    assert model.logits(inside).shape == (2, 3, 99)
    assert model.logits(left[:1]).shape == (1, 3, 99)


def test_the_mask_of_a_mapping_is_used(model: HookedModel, texts: list[str]) -> None:
    """P3: what a Hugging Face tokenizer returns goes in as it is."""
    batch = model.tokenize(texts)
    wanted = model.logits(batch)
    given = {"input_ids": batch.ids, "attention_mask": batch.mask.long()}
    assert torch.equal(model.logits(given), wanted)
    lists = {name: value.tolist() for name, value in given.items()}
    assert torch.equal(model.logits(lists), wanted)
    encoded = model.tokenizer(texts, padding=True, padding_side="left", add_special_tokens=False, return_tensors="pt")
    assert torch.equal(model.logits(encoded), model.logits(model.tokenize(texts, prepend_bos=False)))


def test_padding_that_doubles_as_end_of_text_is_told_from_one_end_of_text() -> None:
    """P3: GPT-2 style tokenizers pad with EOS."""
    model = tiny_model("gpt2")
    model.tokenizer.pad_token = model.tokenizer.eos_token
    eos = model.tokenizer.eos_token_id
    assert model.logits(torch.tensor([[4, 5, eos], [4, 5, 6]])).shape == (2, 3, 99)
    with pytest.raises(VestigeError, match=r"padding \(2\) but there is no mask"):
        model.logits(torch.tensor([[4, eos, eos], [4, 5, 6]]))


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(2, 3), r"integer tensor \[pos\] or \[batch, pos\], got torch.float32 of shape \(2, 3\)"),
        (torch.zeros(2, 3, 1, dtype=torch.long), r"got torch.int64 of shape \(2, 3, 1\)"),
        (torch.zeros(2, 0, dtype=torch.long), r"a non-empty integer tensor"),
        (torch.tensor(3), r"of shape \(\)"),
        (torch.ones(1, 2, dtype=torch.bool), r"got torch.bool"),
        ({"input_ids": torch.tensor([[4, 5]]), "attention_mask": torch.ones(1, 3)}, r"the attention mask has shape"),
        ({"input_ids": torch.tensor([[4, 5], [4, 5]]), "attention_mask": torch.tensor([[1, 1], [0, 0]])}, r"row 1 of"),
        ({"input_ids": [[4, 5], [4]]}, r"rows of 'input_ids' have different lengths"),
        ({"ids": torch.tensor([[4]])}, r"a mapping of inputs needs 'input_ids', got ids"),
        (torch.tensor([[4, 99]]), r"token id 99 has no embedding: the model has ids 0 to 98"),
        (torch.tensor([[-1, 4]]), r"token id -1 has no embedding"),
        ([[4, 5]], r"a prompt is text, got list; token ids go in as a tensor"),
        ([], r"no prompt was given"),
        (7, r"a prompt is text, got int"),
        (None, r"a prompt is text, got NoneType"),
    ],
)
def test_what_is_no_input_is_refused_in_one_line(model: HookedModel, inputs: Any, message: str) -> None:
    with pytest.raises(VestigeError, match=message) as caught:
        model.logits(inputs)
    assert "\n" not in str(caught.value)


def test_a_text_longer_than_a_table_of_positions_says_so() -> None:
    model = shared_model("gpt2")
    with pytest.raises(VestigeError, match="65 positions were asked for, the model has 64"):
        model.logits(torch.full((1, 65), 4))
    with pytest.raises(VestigeError, match="65 positions were asked for, the model has 64"):
        model.generate_tokens(model.as_batch(torch.full((1, 60), 4)), max_new_tokens=9, stop_at_eos=False)


def test_rows_are_stacked_as_they_come() -> None:
    batch = pad_rows([[5], [6, 7]], [[False], [False, True]], pad=0, padding_side="left")
    assert batch.ids.tolist() == [[0, 5], [6, 7]]
    assert batch.mask.tolist() == [[False, True], [True, True]]
    assert batch.answer.tolist() == [[False, False], [False, True]]
    moved = batch.to("meta")
    assert {moved.ids.device.type, moved.mask.device.type, moved.answer.device.type} == {"meta"}


def test_an_all_zero_activation_is_data_and_a_masked_one_is_not(model: HookedModel, texts: list[str]) -> None:
    """P8, P9: selection is by mask; zeroed rows stay."""
    batch = model.tokenize(texts)
    _, cache = model.run_with_cache(
        batch, names_filter="resid_post.0", fwd_hooks=[("resid_post.0", lambda a, hook: torch.zeros_like(a))]
    )
    assert cache["resid_post", 0][batch.mask].shape == (sum(LENGTHS) + 3, 32)
    assert isinstance(cache["resid_post", 0], Tensor)
