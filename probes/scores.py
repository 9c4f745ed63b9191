"""How much a vector is about something, read from its logits alone. Both scores ignore the vector's norm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from probes.vocabulary import default_k, project_to_vocabulary

Score = Callable[[Float[Tensor, "n d_model"]], Float[Tensor, " n"]]

_ENTRIES = 4_194_304
_VOCAB_CHUNK = 16_384
_COMPARED = 2048
_DRAWN = 4096


@dataclass(frozen=True)
class LexiconScore:
    """How high a vector ranks the tokens of a lexicon: the weighted mean of `-log((r + 1/2) / (n + 1))`, in nats.

    `r` is a lexicon token's rank among the `n` tokens outside the lexicon (the number of those with a larger logit,
    ties counted half), so that lexicon tokens do not push each other down. A token at a random place is worth 1 nat in
    the mean, one that leads the vocabulary `log(2n + 2)`; this is Fisher's combination of the ranks' own p-values.
    It rewards what the published top-k overlap rewards, without its cliff at k and its many ties.

    Args:
        W_U: Unembedding.
        weights: Weight of each token, 0 outside the lexicon, summing to 1.
    """

    W_U: Float[Tensor, "d_model d_vocab"]
    weights: Float[Tensor, " d_vocab"]

    @torch.no_grad()
    def __call__(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        """Score vectors of any norm; a zero vector gets `log 2`, less than chance."""
        size = _rows_at_once(self.W_U.shape[1])
        parts = [self._chunk(vectors[i : i + size]) for i in range(0, len(vectors), size)]
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)

    def _chunk(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        W_U, ids = self.W_U, self.weights.nonzero().flatten()
        wide = torch.promote_types(W_U.dtype, torch.float32)
        rows = vectors.to(W_U.device, wide)
        inside = rows @ W_U[:, ids.to(W_U.device)].to(wide)
        outside = (self.weights == 0).to(W_U.device)
        ranks = torch.zeros(inside.shape, dtype=torch.float64, device=W_U.device)
        for start in range(0, W_U.shape[1], _VOCAB_CHUNK):
            here = slice(start, start + _VOCAB_CHUNK)
            logits = _sorted_rows((rows @ W_U[:, here].to(wide))[:, outside[here]])
            # Of the tokens outside the lexicon, those above count one and equals a half.
            below, up_to = (torch.searchsorted(logits, inside, right=right) for right in (False, True))
            ranks += logits.shape[1] - 0.5 * (below + up_to).double()
        n = W_U.shape[1] - len(ids)
        surprise = -((ranks + 0.5) / (n + 1)).log()
        return (surprise @ self.weights[ids].to(surprise)).cpu()


@dataclass(frozen=True)
class CoherenceScore:
    """How alike the top tokens of a vector are: the mean cosine over pairs of their embeddings.

    Args:
        W_U: Unembedding, which says what the top tokens are.
        W_E: Embedding, in which they are compared.
        k: Number of top tokens; `default_k(d_vocab)` when None.
    """

    W_U: Float[Tensor, "d_model d_vocab"]
    W_E: Float[Tensor, "d_vocab d_model"]
    k: int | None = None

    @torch.no_grad()
    def __call__(self, vectors: Float[Tensor, "n d_model"]) -> Float[Tensor, " n"]:
        """Score vectors of any norm; a zero vector, which has no top tokens, gets -1."""
        k = max(2, default_k(self.W_U.shape[1])) if self.k is None else self.k
        ids = project_to_vocabulary(
            vectors, self.W_U, k=k, chunk=_rows_at_once(self.W_U.shape[1]), vocab_chunk=_VOCAB_CHUNK
        ).ids.to(self.W_E.device)
        total = torch.zeros(len(ids), self.W_E.shape[1], dtype=torch.float64, device=self.W_E.device)
        squares = torch.zeros(len(ids), dtype=torch.float64, device=self.W_E.device)
        for column in ids.clamp(min=0).T:
            unit = torch.nn.functional.normalize(self.W_E[column].double(), dim=-1)
            total += unit
            squares += unit.square().sum(-1)
        # Over the pairs of k unit vectors: |sum|^2 = sum of squares + 2 (sum over pairs).
        score = (total.square().sum(-1) - squares) / (k * (k - 1))
        return torch.where(ids[:, 0] >= 0, score, -1.0).cpu() if len(ids) else score.cpu()


def _sorted_rows(logits: Float[Tensor, "n tokens"]) -> Float[Tensor, "n tokens"]:
    if logits.device.type == "cpu":
        # NumPy sorts short rows several times as fast as torch.
        return torch.from_numpy(np.sort(logits.numpy(), axis=-1))
    return logits.sort(-1).values


def _rows_at_once(d_vocab: int) -> int:
    """Return how many vectors to score together: few rows of a large vocabulary or many of a small one, never all."""
    return max(1, _ENTRIES // min(d_vocab, _VOCAB_CHUNK))


@torch.no_grad()
def distinct_tokens(
    W_E: Float[Tensor, "d_vocab d_model"], *, cosine: float = 0.98, seed: int = 0
) -> Int[Tensor, " kept"]:
    """Return the ids of tokens that no other token nearly equals.

    Tokens that training never showed are all pushed the same way until their embeddings coincide. A vector that points
    at that heap has perfectly coherent top tokens and no meaning, and without this step such vectors lead the list.

    Args:
        W_E: Embedding.
        cosine: Tokens above this cosine to another token are left out.
        seed: Of the 2048 tokens that all are compared with, where the vocabulary is larger.

    Source:
        Land and Bartolo 2024, *Fishing for Magikarp*, arXiv:2405.05417, for the heap of under-trained tokens.
    """
    n = W_E.shape[0]
    chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:_COMPARED].to(W_E.device)
    others = torch.nn.functional.normalize(W_E[chosen].float(), dim=-1)
    alone = torch.ones(n, dtype=torch.bool, device=W_E.device)
    for start in range(0, n, _COMPARED):
        rows = torch.nn.functional.normalize(W_E[start : start + _COMPARED].float(), dim=-1)
        close = rows @ others.T > cosine
        itself = torch.arange(start, start + len(rows), device=W_E.device)[:, None] == chosen
        alone[start : start + len(rows)] = ~(close & ~itself).any(-1)
    return alone.nonzero().flatten()


def null_scores(score: Score, d_model: int, *, draws: int, seed: int) -> Float[Tensor, " draws"]:
    """Return the scores of random directions, sorted.

    The directions are isotropic. Both scores are the same for a vector and for any positive multiple of it, so these
    are at the same time the scores of random directions with the norm of whichever neuron they are compared with.
    """
    generator = torch.Generator().manual_seed(seed)
    found = [
        score(torch.randn(min(_DRAWN, draws - start), d_model, generator=generator)).double()
        for start in range(0, draws, _DRAWN)
    ]
    return torch.cat(found).sort().values


def p_values(scores: Float[Tensor, " n"], null: Float[Tensor, " draws"]) -> Float[Tensor, " n"]:
    """Return `(1 + number of null scores at least as high) / (1 + draws)` for each score; `null` is sorted upwards."""
    below = torch.searchsorted(null, scores.double(), right=False)
    return (1.0 + len(null) - below.double()) / (1.0 + len(null))


def adjusted(p: Float[Tensor, " n"], *, method: str) -> Float[Tensor, " n"]:
    """Correct p-values for the number of tests: `bh` (false discovery rate), `bonferroni` (any false hit), or `none`.

    Source:
        Benjamini and Hochberg 1995 for `bh`.
    """
    n = len(p)
    if method == "none" or n == 0:
        return p.clone()
    if method == "bonferroni":
        return (p * n).clamp(max=1.0)
    order = p.argsort(stable=True)
    stepped = p[order] * n / torch.arange(1, n + 1, dtype=p.dtype)
    smallest = stepped.flip(0).cummin(0).values.flip(0).clamp(max=1.0)
    out = torch.empty_like(p)
    out[order] = smallest
    return out
