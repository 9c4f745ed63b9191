"""Questions with free places in them, which an attacker fills with tokens or with embeddings of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked import Edit, HookContext, HookedModel, Item, TokenBatch, VestigeError
from hooked.tokens import pad_rows
from interventions import answer_nll
from interventions.batches import encode
from vestige.attacks.prompts.framing import form_of

Place = Literal["front", "question", "end"]


@dataclass(frozen=True, eq=False)
class Slots:
    """Prompts with their answers, and the same number of free places in each.

    Args:
        batch: Tokens, padded on the right; free places hold a special token and count as prompt.
        free: True on free places.
    """

    batch: TokenBatch
    free: Bool[Tensor, "batch pos"]

    def __len__(self) -> int:
        return len(self.batch)

    def __getitem__(self, rows: slice) -> Slots:
        return Slots(self.batch[rows], self.free[rows])

    def repeat(self, times: int) -> Slots:
        """Return all rows once, then all rows again."""
        batch = self.batch
        repeated = TokenBatch(*(part.repeat(times, 1) for part in (batch.ids, batch.mask, batch.answer)))
        return Slots(repeated, self.free.repeat(times, 1))

    def filled(self, ids: Int[Tensor, "*rows n_free"]) -> Slots:
        """Put tokens into the free places: one row of ids for all, or one for each."""
        whole = self.batch.ids.clone()
        whole[self.free] = ids.to(whole.device).expand(len(self), -1).reshape(-1)
        return replace(self, batch=replace(self.batch, ids=whole))


def with_slots(model: HookedModel, items: Sequence[Item], n: int, *, place: Place) -> Slots:
    """Tokenise items with `n` free places each.

    Args:
        model: Whose tokens and positions count.
        items: With a prompt and an answer.
        n: Free places, at least 1.
        place: In `front` of the prompt and behind a BOS; behind the `question`, before words with a colon that call for
            the answer; or at the `end` of the prompt.

    Raises:
        VestigeError: No item, one without prompt or answer, no free place, or a row longer than the model's positions.
    """
    bare = next((i for i, item in enumerate(items) if item.is_document or item.generation_only), None)
    if not items or bare is not None:
        came = "got none" if bare is None else f"and item {bare} lacks one of them"
        raise VestigeError(f"an optimised prompt needs items with a prompt and an answer, {came}")
    if n < 1:
        raise VestigeError(f"an optimised prompt has at least 1 token, got {n}")
    batch, special = encode(model, items), _special(model.tokenizer)
    rows, answers, at = [], [], []
    for row, item in enumerate(items):
        ids, answer = batch.ids[row][batch.mask[row]].tolist(), batch.answer[row][batch.mask[row]].tolist()
        cut = _cut(model, item, ids, answer.index(True), place)
        rows.append([*ids[:cut], *[special] * n, *ids[cut:]])
        answers.append([*answer[:cut], *[False] * n, *answer[cut:]])
        at.append(cut)
    limit, longest = getattr(model.config, "max_position_embeddings", None), max(map(len, rows))
    if limit is not None and longest > limit:
        raise VestigeError(f"with {n} tokens more a row has {longest}, the model {limit} positions; add fewer")
    padded = pad_rows(rows, answers, pad=special, padding_side="right").to(model.device)
    columns = torch.arange(padded.ids.shape[1], device=model.device)
    start = torch.tensor(at, device=model.device)[:, None]
    return Slots(padded, (columns >= start) & (columns < start + n))


def _cut(model: HookedModel, item: Item, ids: list[int], prompt_length: int, place: Place) -> int:
    bos = getattr(model.tokenizer, "bos_token_id", None)
    if place == "front":
        return int(ids[0] == bos)
    form = form_of(item.prompt)
    if place == "question" and form.cue:
        question = model.tokenize(form.head + form.body).ids[0].tolist()
        # Only where the question ends between two tokens of the whole.
        if ids[: len(question)] == question and len(question) < prompt_length:
            return len(question)
    return prompt_length


def _special(tokenizer: Any) -> int:
    """Return an id that a gate which reads the text does not see."""
    names = ("pad_token_id", "eos_token_id", "bos_token_id")
    return next((int(i) for name in names if (i := getattr(tokenizer, name, None)) is not None), 0)


def filling(slots: Slots, embeddings: Float[Tensor, "*rows n_free d_model"]) -> Edit:
    """Return an edit of `hook_embed` that fills the free places, with one set of embeddings for all or one each."""

    def fill(activation: Tensor, hook: HookContext) -> Tensor:
        free, whole = slots.free.to(activation.device), activation.clone()
        wanted = embeddings.to(activation).expand(len(slots), -1, -1)
        whole[free] = wanted.reshape(-1, activation.shape[-1])
        return whole

    return fill


def mean_nlls(model: HookedModel, batch: TokenBatch, *edits: tuple[str, Edit]) -> Float[Tensor, " batch"]:
    """Return the mean negative log-probability per answer token, with edits in force; gradients pass."""
    return answer_nll(model.run_with_hooks(batch, fwd_hooks=edits), batch.ids, batch.answer).mean
