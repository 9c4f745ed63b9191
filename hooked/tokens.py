"""Tokens with their masks: what is real, what is prompt, what is answer.

Padding is never guessed from ids later on: whoever tokenises also says which tokens are real, and every pass through a
model derives its attention mask and position ids from that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from hooked.errors import VestigeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PaddingSide = Literal["left", "right"]


# Compared by identity, since tensors have no single truth value.
@dataclass(frozen=True, eq=False)
class TokenBatch:
    """A padded batch of token ids.

    Args:
        ids: Token ids; padded places hold any id.
        mask: True on real tokens.
        answer: True on answer tokens; all False for plain prompts.
    """

    ids: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]
    answer: Bool[Tensor, "batch pos"]

    def __len__(self) -> int:
        return int(self.ids.shape[0])

    def __getitem__(self, rows: slice) -> TokenBatch:
        return TokenBatch(self.ids[rows], self.mask[rows], self.answer[rows])

    @property
    def position_ids(self) -> Int[Tensor, "batch pos"]:
        """Positions counted over real tokens only, so that padding on the left shifts nothing."""
        return (self.mask.long().cumsum(-1) - 1).clamp(min=0)

    @property
    def first(self) -> Int[Tensor, " batch"]:
        """Column of each row's first real token."""
        return self.mask.long().argmax(-1)

    @property
    def last(self) -> Int[Tensor, " batch"]:
        """Column of each row's last real token."""
        return _last_true(self.mask)

    @property
    def prompt(self) -> Bool[Tensor, "batch pos"]:
        """True on real tokens that are not answer tokens."""
        return self.mask & ~self.answer

    @property
    def prompt_last(self) -> Int[Tensor, " batch"]:
        """Column of each row's last prompt token (of the first real token when a row is all answer)."""
        return torch.where(self.prompt.any(-1), _last_true(self.prompt), self.first)

    @cached_property
    def padded(self) -> bool:
        """Whether any place is padding."""
        return not bool(self.mask.all())

    @property
    def padding_side(self) -> PaddingSide | None:
        """Side on which this batch is padded; None without padding."""
        if not self.padded:
            return None
        return "left" if not bool(self.mask[:, 0].all()) else "right"

    def to(self, device: torch.device | str) -> TokenBatch:
        """Move all three tensors."""
        return TokenBatch(self.ids.to(device), self.mask.to(device), self.answer.to(device))


def _last_true(mask: Bool[Tensor, "batch pos"]) -> Int[Tensor, " batch"]:
    columns = torch.arange(mask.shape[-1], device=mask.device)
    return torch.where(mask, columns, 0).amax(-1)


def pad_rows(
    rows: Sequence[Sequence[int]], answers: Sequence[Sequence[bool]], *, pad: int, padding_side: PaddingSide
) -> TokenBatch:
    """Stack rows of ids of different lengths.

    Args:
        rows: One list of ids per row, none empty.
        answers: Same lengths; True where the token is part of an answer.
        pad: Id written into padded places.
        padding_side: Where the padding goes.
    """
    if padding_side not in ("left", "right"):
        raise VestigeError(f"padding_side is 'left' or 'right', got {padding_side!r}")
    width = max(len(row) for row in rows)
    ids = torch.full((len(rows), width), pad, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    answer = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, (row, flags) in enumerate(zip(rows, answers, strict=True)):
        place = slice(width - len(row), width) if padding_side == "left" else slice(0, len(row))
        ids[i, place] = torch.tensor(row, dtype=torch.long)
        mask[i, place] = True
        answer[i, place] = torch.tensor(flags, dtype=torch.bool)
    return TokenBatch(ids, mask, answer)


def from_tensor(ids: Tensor, mask: Tensor | None, tokenizer: PreTrainedTokenizerBase | None) -> TokenBatch:
    """Wrap a tensor of ids, with its attention mask when there is one.

    Raises:
        VestigeError: The tensor is not `[pos]` or `[batch, pos]` of integers, or it looks padded and no mask was given.
    """
    whole = not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    if not whole or ids.ndim not in (1, 2) or ids.numel() == 0:
        raise VestigeError(
            "token ids are a non-empty integer tensor [pos] or [batch, pos], "
            f"got {ids.dtype} of shape {tuple(ids.shape)}"
        )
    ids = ids[None] if ids.ndim == 1 else ids
    if mask is None:
        _refuse_unmasked_padding(ids, tokenizer)
        mask = torch.ones_like(ids, dtype=torch.bool)
    mask = (mask[None] if mask.ndim == 1 else mask).bool()
    if mask.shape != ids.shape:
        raise VestigeError(f"the attention mask has shape {tuple(mask.shape)}, the ids {tuple(ids.shape)}")
    if not bool(mask.any(-1).all()):
        raise VestigeError(f"row {int((~mask.any(-1)).nonzero()[0])} of the attention mask has no real token")
    return TokenBatch(ids, mask, torch.zeros_like(mask))


def _refuse_unmasked_padding(ids: Int[Tensor, "batch pos"], tokenizer: PreTrainedTokenizerBase | None) -> None:
    pad = getattr(tokenizer, "pad_token_id", None)
    if pad is None or ids.shape[0] == 1 or ids.shape[1] < 2:
        return
    # One end-of-text token at an edge is legitimate even when it doubles as padding; two in a row are not.
    special = {getattr(tokenizer, "eos_token_id", None), getattr(tokenizer, "bos_token_id", None)}
    run = 2 if pad in special else 1
    edges = torch.stack([(ids[:, :run] == pad).all(-1), (ids[:, -run:] == pad).all(-1)])
    if bool(edges.any()):
        row = int(edges.any(0).nonzero()[0])
        raise VestigeError(
            f"row {row} of the token ids begins or ends with padding ({pad}) but there is no mask; "
            "pass a TokenBatch from model.tokenize(...), or {'input_ids': ids, 'attention_mask': mask}"
        )
