"""How much of an answer a model completes by itself when it is fed the true tokens before each position."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool

from hooked.errors import VestigeError

from ._checks import check_same_length, token_ids


def exact_memorization(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> float:
    """Return the share of answer positions whose most likely token is the label.

    higher_is: leaky. Range [0, 1]. Floor: 1 / d_vocab for a uniform guess; labels permuted across items for a model
    that knows the style.

    Args:
        predictions: Argmax of the teacher-forced logits at each answer position `[n_tokens]`; ties go to the first
            index.
        labels: The answer tokens `[n_tokens]`.

    Raises:
        VestigeError: No token, different lengths, or values that are not integers.

    Source:
        Tirumala et al. 2022, arXiv:2205.10770; as used by Jang et al., arXiv:2210.01504 (memorization accuracy).
    """
    return float(_matches(predictions, labels).mean())


def extraction_strength(
    predictions: npt.ArrayLike, labels: npt.ArrayLike, *, es_floor: Literal["zero", "release"] = "zero"
) -> float:
    """Return the share of the answer that the model completes without error, `1 - k/n`.

    k is the smallest index from which all predictions equal the labels, n where there is none: the length of the prefix
    that an attacker has to supply.

    higher_is: leaky. Range [0, 1]. Floor: about 1 / (n d_vocab) for a uniform guess.

    Args:
        predictions: Argmax of the teacher-forced logits at each answer position `[n_tokens]`.
        labels: The answer tokens `[n_tokens]`.
        es_floor: `zero` scores an answer whose last token is wrong with 0. `release` reproduces the released loop,
            which has no such case and gives 1/n.

    Raises:
        VestigeError: No token, different lengths, values that are not integers, or an unknown `es_floor`.

    Source:
        Carlini et al. 2021, arXiv:2012.07805, as implemented in open-unlearning.
    """
    if es_floor not in ("zero", "release"):
        raise VestigeError(f"es_floor must be 'zero' or 'release', got {es_floor!r}")
    matches = _matches(predictions, labels)
    completed = int(np.logical_and.accumulate(matches[::-1]).sum())
    if es_floor == "release":
        completed = max(1, completed)
    return completed / len(matches)


def _matches(predictions: npt.ArrayLike, labels: npt.ArrayLike) -> Bool[np.ndarray, " n_tokens"]:
    predicted, wanted = token_ids(predictions, "predictions"), token_ids(labels, "labels")
    check_same_length(predictions=predicted, labels=wanted)
    matches: Bool[np.ndarray, " n_tokens"] = predicted == wanted
    return matches
