"""What a vector says in words: its largest logits under the raw unembedding, streamed so that the whole table of logits
never exists.

The raw unembedding means no final norm, no bias and no soft-capping, as in Geva et al. 2022 and Hong et al. 2024
(ConceptVectors).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import HookedModel, VestigeError

_MAX_K = 200
_VOCAB_PER_TOKEN = 50


@dataclass(frozen=True)
class VocabularyProjection:
    """The k largest (or smallest) logits of each of n vectors.

    Args:
        ids: Token ids, most extreme first; equal logits in order of id. The row of a zero vector, which points at no
            token, is all -1.
        values: Their logits, at least float32; zeros in the row of a zero vector.
        tokens: The ids as text, an empty tuple for a zero vector; None without a tokenizer.
    """

    ids: Int[Tensor, "n k"]
    values: Float[Tensor, "n k"]
    tokens: tuple[tuple[str, ...], ...] | None


def default_k(d_vocab: int) -> int:
    """Return `min(200, ceil(0.02 d_vocab))`: 200 tokens of a small vocabulary would be most of it."""
    return min(_MAX_K, -(-d_vocab // _VOCAB_PER_TOKEN))


@torch.no_grad()
def project_to_vocabulary(
    vectors: Float[Tensor, "n d_model"],
    unembedding: Float[Tensor, "d_model d_vocab"] | HookedModel,
    *,
    k: int | None = None,
    chunk: int = 256,
    vocab_chunk: int = 16_384,
    largest: bool = True,
    tokenizer: Any = None,
) -> VocabularyProjection:
    """Return the top k tokens of each vector, exactly as the dense product `vectors @ W_U` would give them.

    No tensor made on the way has more than `max(chunk, d_model) * vocab_chunk` entries (or `chunk * 2k`, if that is
    more); half precision inputs are multiplied and summed in float32.

    Args:
        vectors: Any vectors in the residual stream, e.g. `model.value_vectors(layer)`.
        unembedding: `W_U`, or a model, whose tokenizer then gives the strings.
        k: Tokens per vector; `default_k(d_vocab)` when None.
        chunk: Vectors handled at once.
        vocab_chunk: Tokens handled at once.
        largest: False gives the k smallest logits, smallest first.
        tokenizer: For the strings; the model's own when None.

    Raises:
        VestigeError: Shapes do not fit, k is outside 1..d_vocab, a chunk is below 1, or a value is not finite.

    Source:
        Hong et al. 2024, arXiv:2406.11614, section 3: `e = v W_U`, top 200.
    """
    W_U = unembedding.W_U if isinstance(unembedding, HookedModel) else unembedding
    if tokenizer is None and isinstance(unembedding, HookedModel):
        tokenizer = unembedding.tokenizer
    k = default_k(W_U.shape[-1]) if k is None else k
    _check(vectors, W_U, k, chunk, vocab_chunk)
    wide = torch.promote_types(torch.promote_types(vectors.dtype, W_U.dtype), torch.float32)
    ids = torch.empty(len(vectors), k, dtype=torch.long, device=W_U.device)
    values = torch.empty(len(vectors), k, dtype=wide, device=W_U.device)
    for start in range(0, len(vectors), chunk):
        rows = vectors[start : start + chunk].detach().to(W_U.device, wide)
        _check_finite(rows, "vector", start)
        place = slice(start, start + len(rows))
        values[place], ids[place] = _rows_top(rows if largest else -rows, W_U, k, vocab_chunk)
        empty = ~rows.any(-1)
        ids[place][empty] = -1
        values[place][empty] = 0.0
    return VocabularyProjection(
        ids, values if largest else -values, None if tokenizer is None else strings(ids, tokenizer)
    )


def strings(ids: Int[Tensor, "n k"], tokenizer: Any) -> tuple[tuple[str, ...], ...]:
    """Decode ids one by one, each distinct id once; -1 stands for no token and is left out."""
    text = {i: str(tokenizer.decode([i])) for i in ids.unique().tolist() if i >= 0}
    return tuple(tuple(text[i] for i in row if i >= 0) for row in ids.tolist())


def _rows_top(
    rows: Float[Tensor, "n d_model"], W_U: Float[Tensor, "d_model d_vocab"], k: int, vocab_chunk: int
) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    best: tuple[Tensor, Tensor] | None = None
    for start in range(0, W_U.shape[1], vocab_chunk):
        logits = rows @ W_U[:, start : start + vocab_chunk].to(rows.dtype)
        _check_finite(logits, "logits of vector", 0)
        values, ids = stable_topk(logits, min(k, logits.shape[1]))
        if best is None:
            best = values, ids
            continue
        # Every id so far is below the new ones, so a stable sort by value keeps ties in order of id.
        values, ids = torch.cat([best[0], values], -1), torch.cat([best[1], ids + start], -1)
        order = values.argsort(stable=True, dim=-1, descending=True)[:, :k]
        best = values.gather(-1, order), ids.gather(-1, order)
    assert best is not None
    return best


def stable_topk(values: Float[Tensor, "n m"], k: int) -> tuple[Float[Tensor, "n k"], Int[Tensor, "n k"]]:
    """Return the k largest values per row, largest first, and their columns; ties go to the lower column, which
    `torch.topk` leaves open."""
    ids = values.topk(k, -1).indices
    lowest = values.gather(-1, ids).amin(-1, keepdim=True)
    tied = ((values >= lowest).sum(-1) > k).nonzero().flatten()
    if len(tied):
        # Only rows whose k-th value occurs again beyond the k-th place can hold the wrong columns.
        part, edge = values[tied], lowest[tied]
        above, equal = part > edge, part == edge
        room = k - above.sum(-1, keepdim=True)
        keep = above | (equal & (equal.cumsum(-1, dtype=torch.int32) <= room))
        ids[tied] = keep.nonzero()[:, 1].view(-1, k)
    ids = ids.sort(-1).values
    picked = values.gather(-1, ids)
    order = picked.argsort(stable=True, dim=-1, descending=True)
    return picked.gather(-1, order), ids.gather(-1, order)


def _check(vectors: Tensor, W_U: Tensor, k: int, chunk: int, vocab_chunk: int) -> None:
    if vectors.ndim != 2 or W_U.ndim != 2 or vectors.shape[1] != W_U.shape[0]:
        raise VestigeError(
            f"project_to_vocabulary takes vectors [n, d_model] and an unembedding [d_model, d_vocab], "
            f"got {tuple(vectors.shape)} and {tuple(W_U.shape)}"
        )
    if not 1 <= k <= W_U.shape[1]:
        raise VestigeError(f"k is 1 to d_vocab = {W_U.shape[1]}, got {k}")
    if min(chunk, vocab_chunk) < 1:
        raise VestigeError(f"chunk and vocab_chunk are at least 1, got {chunk} and {vocab_chunk}")


def _check_finite(rows: Tensor, what: str, start: int) -> None:
    finite = torch.isfinite(rows).all(-1)
    if not bool(finite.all()):
        raise VestigeError(
            f"{what} {start + int((~finite).nonzero()[0])} holds NaN or infinity; did the model diverge?"
        )
