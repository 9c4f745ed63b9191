"""What unlearning did to a concept vector `v`, read from the weights alone.

Feed these the raw weights: folding a norm into the unembedding or centring the writing weights changes all of them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from hooked.errors import VestigeError
from probes.vocabulary import default_k

from ._checks import check_same_length, numbers


def cosine(before: npt.ArrayLike, after: npt.ArrayLike) -> float | None:
    """Return `v . v' / (|v| |v'|)`, or None where a vector is zero and has no direction.

    higher_is: leaky (1 is an untouched vector). Range [-1, 1]. Floor: 0, within about 1 / sqrt(d_model) for independent
    directions. A vector may stay at 1 and yet never fire: read it next to the neuron's activation.

    Args:
        before: `[d_model]` in the original model.
        after: `[d_model]` in the unlearned model.

    Raises:
        VestigeError: Different lengths, or values that are not finite.

    Source:
        Hong et al. 2024, *Intrinsic Evaluation of Unlearning Using Parametric Knowledge Traces*, arXiv:2406.11614.
    """
    v, w = _pair(before, after)
    if not v.any() or not w.any():
        return None
    v, w = v / np.abs(v).max(), w / np.abs(w).max()
    return float(np.clip(v @ w / (np.linalg.norm(v) * np.linalg.norm(w)), -1.0, 1.0))


@dataclass(frozen=True)
class L2:
    """Distance moved by a vector.

    Args:
        absolute: `|v - v'|`, in the units of the weights.
        relative: `|v - v'| / |v|`; None where v is zero.
    """

    absolute: float
    relative: float | None


def l2(before: npt.ArrayLike, after: npt.ArrayLike) -> L2:
    """Return the distance between a vector before and after, absolute and relative.

    higher_is: changed. Range [0, inf). Floor: 0 untouched; relative 1 for a vector set to zero.

    Args:
        before: `[d_model]` in the original model.
        after: `[d_model]` in the unlearned model.

    Raises:
        VestigeError: Different lengths, or values that are not finite.

    Source:
        Hong et al. 2024, arXiv:2406.11614.
    """
    v, w = _pair(before, after)
    absolute, norm = float(np.linalg.norm(v - w)), float(np.linalg.norm(v))
    return L2(absolute, absolute / norm if norm > 0 else None)


def jaccard_floor(k: int, d_vocab: int) -> float:
    """Return the expected Jaccard index of two independent top-k sets, about `k / (2 d_vocab - k)`."""
    if not 1 <= k <= d_vocab:
        raise VestigeError(f"k must be between 1 and d_vocab = {d_vocab}, got {k}")
    return k / (2 * d_vocab - k)


def top_tokens(scores: npt.ArrayLike, *, k: int | None = None) -> tuple[int, ...]:
    """Return the ids of the k highest scores, highest first, ties in order of id; empty where all scores are zero.

    A zero vector projects to zero on every token and so points at none. Without this rule its "top tokens" would be ids
    0 to k-1, and two erased vectors would look identical.

    Args:
        scores: Projection `v W_U` of a vector onto the vocabulary `[d_vocab]`.
        k: Defaults to `default_k(d_vocab)`.

    Raises:
        VestigeError: NaN or infinity, or k outside 1..d_vocab.
    """
    values = numbers(scores, "scores")
    k = default_k(len(values)) if k is None else k
    if not 1 <= k <= len(values):
        raise VestigeError(f"k must be between 1 and d_vocab = {len(values)}, got {k}")
    if not values.any():
        return ()
    return tuple(np.argsort(-values, kind="stable")[:k].tolist())


@dataclass(frozen=True)
class TokenOverlap:
    """Overlap of the top tokens of a vector before and after.

    Args:
        jaccard: Common over all tokens of the two sets; None where the vector was zero to begin with.
        k: Size of each set.
        floor: What independent sets score.
    """

    jaccard: float | None
    k: int
    floor: float


def token_overlap(before: npt.ArrayLike, after: npt.ArrayLike, *, k: int | None = None) -> TokenOverlap:
    """Return the Jaccard index `#(P & P') / #(P | P')` of the top-k tokens before and after.

    higher_is: leaky. Range [0, 1]. Floor: `k / (2 d_vocab - k)`. A vector set to zero has no top tokens and scores 0.

    Args:
        before: `v W_U` `[d_vocab]`, with the original unembedding.
        after: `v' W_U` `[d_vocab]`, with the original unembedding too, or a changed unembedding would pass for a
            changed vector.
        k: Defaults to `default_k(d_vocab)`.

    Raises:
        VestigeError: Different lengths, values that are not finite, or k outside 1..d_vocab.

    Source:
        Hong et al. 2024, arXiv:2406.11614, with k = 200.
    """
    first, second = _pair(before, after)
    k = default_k(len(first)) if k is None else k
    p, q = set(top_tokens(first, k=k)), set(top_tokens(second, k=k))
    return TokenOverlap(len(p & q) / len(p | q) if p else None, k, jaccard_floor(k, len(first)))


def _pair(before: npt.ArrayLike, after: npt.ArrayLike) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    v, w = numbers(before, "before"), numbers(after, "after")
    check_same_length(before=v, after=w)
    return v, w
