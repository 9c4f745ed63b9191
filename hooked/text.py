"""Text to tokens: one BOS, prompt and answer tokenised together, and a mask that says which tokens are the answer's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hooked.errors import VestigeError
from hooked.tokens import PaddingSide, TokenBatch, from_tensor, pad_rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Text, several texts, an id tensor, a batch, or a mapping with `input_ids` and `attention_mask`.
Inputs = str | Sequence[str] | Tensor | TokenBatch | Mapping[str, Any]


def as_batch(inputs: Inputs, tokenizer: Any, *, prepend_bos: bool) -> TokenBatch:
    """Turn anything the reading methods accept into a `TokenBatch`.

    Raises:
        VestigeError: It is something else, or padded ids without their mask.
    """
    if isinstance(inputs, TokenBatch):
        return inputs
    if isinstance(inputs, Tensor):
        return from_tensor(inputs, None, tokenizer)
    if isinstance(inputs, Mapping):
        if "input_ids" not in inputs:
            raise VestigeError(f"a mapping of inputs needs 'input_ids', got {', '.join(map(str, inputs)) or 'nothing'}")
        return from_tensor(_tensor(inputs["input_ids"]), _tensor(inputs.get("attention_mask")), tokenizer)
    return tokenize(tokenizer, inputs, answers=None, padding_side="left", prepend_bos=prepend_bos)


def tokenize(
    tokenizer: Any,
    prompts: str | Sequence[str],
    *,
    answers: str | Sequence[str] | None,
    padding_side: PaddingSide,
    prepend_bos: bool,
) -> TokenBatch:
    """Turn text into ids with their masks; `HookedModel.tokenize` documents it."""
    texts = _texts(prompts, "a prompt")
    if not texts:
        raise VestigeError("no prompt was given")
    replies = [""] * len(texts) if answers is None else _texts(answers, "an answer")
    if len(replies) != len(texts):
        raise VestigeError(f"{len(texts)} prompts but {len(replies)} answers")
    rows = encode(tokenizer, texts, replies, prepend_bos=prepend_bos)
    pad = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    return pad_rows([r for r, _ in rows], [f for _, f in rows], pad=pad, padding_side=padding_side)


def join(prompt: str, answer: str) -> str:
    """Join a prompt and its answer with one space, unless either side already has whitespace there or one is empty."""
    if not prompt or not answer or prompt[-1].isspace() or answer[0].isspace():
        return prompt + answer
    return f"{prompt} {answer}"


def encode(
    tokenizer: PreTrainedTokenizerBase | None, prompts: Sequence[str], answers: Sequence[str], *, prepend_bos: bool
) -> list[tuple[list[int], list[bool]]]:
    """Tokenise prompts with their answers and say which tokens are the answers'.

    Both are tokenised as one text, as the model saw them in training, and the boundary comes from character offsets: a
    token that carries any character of the answer counts as answer. Exactly one BOS is prepended if asked for and if
    the tokenizer has one.

    Args:
        tokenizer: Fast or slow.
        prompts: One per row.
        answers: One per prompt; an empty one has no tokens.
        prepend_bos: Whether rows begin with BOS.

    Raises:
        VestigeError: No tokenizer, a text that gives no token, or an answer that gives none.
    """
    if tokenizer is None:
        raise VestigeError("this HookedModel has no tokenizer, so it takes token ids only; pass tokenizer= to use text")
    texts = [join(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    # Without an answer, its length is 0.
    starts = [len(text) - len(answer.lstrip()) for text, answer in zip(texts, answers, strict=True)]
    if tokenizer.is_fast:
        # One call for all: a call costs far more than a text.
        encoded = tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        found = zip(encoded["input_ids"], encoded["offset_mapping"], starts, strict=True)
        rows = [(list(ids), [end > start for _, end in offsets]) for ids, offsets, start in found]
    else:
        rows = [_without_offsets(tokenizer, *each) for each in zip(texts, starts, map(bool, answers), strict=True)]
    bos = tokenizer.bos_token_id
    if bos is not None and prepend_bos:
        rows = [(ids, flags) if ids[:1] == [bos] else ([bos, *ids], [False, *flags]) for ids, flags in rows]
    for text, answer, (ids, flags) in zip(texts, answers, rows, strict=True):
        if not ids:
            raise VestigeError(f"the tokenizer gives no token for {text!r}")
        if answer and not any(flags):
            raise VestigeError(f"the tokenizer gives no token for the answer {answer!r}")
    return rows


def _without_offsets(
    tokenizer: PreTrainedTokenizerBase, text: str, start: int, answered: bool
) -> tuple[list[int], list[bool]]:
    """Let the answer begin where the tokens stop being those of the prompt alone."""
    ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    head = list(tokenizer(text[:start].rstrip(), add_special_tokens=False, verbose=False)["input_ids"])
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(ids, head, strict=False))))
    return ids, [answered and i >= same for i in range(len(ids))]


def _texts(given: Any, what: str) -> list[str]:
    texts = [given] if isinstance(given, str) or not isinstance(given, Iterable) else list(given)
    wrong = [type(text).__name__ for text in texts if not isinstance(text, str)]
    if wrong:
        raise VestigeError(f"{what} is text, got {wrong[0]}; token ids go in as a tensor, torch.tensor([[...]])")
    return texts


def _tensor(values: Any) -> Any:
    if values is None or isinstance(values, Tensor):
        return values
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise VestigeError(
            "the rows of 'input_ids' have different lengths; pad them, with an attention mask"
        ) from error


def token_text(tokenizer: Any, token: int) -> str:
    """Return one token as it stands in a text, with the space in front of it where it has one."""
    alone, piece = str(tokenizer.decode([token])), tokenizer.convert_ids_to_tokens(token)
    # SentencePiece marks the space in the piece, and drops it where a text begins.
    begins_word = isinstance(piece, str) and piece.startswith("\u2581")
    return f" {alone}" if begins_word and not alone.startswith(" ") else alone
