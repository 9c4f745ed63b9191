"""Metrics of generated text: overlap with a reference, and two guards against reading garbage as forgetting."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from hooked.errors import VestigeError


def rouge_l_recall(generated: str, *, reference: str, stemmer: bool = True) -> float:
    """Return `LCS(generated, reference) / words(reference)`, on lower-cased runs of a-z and 0-9.

    higher_is: leaky on forget items, useful on retain items. Range [0, 1]. Floor: none in closed form; answers permuted
    across items.

    Args:
        generated: New text only, never the prompt. Empty text scores 0.
        reference: The true answer.
        stemmer: Porter stemming: on in TOFU, off in MUSE.

    Raises:
        VestigeError: The reference has no word of a-z or 0-9 (text in another script has none).

    Source:
        Lin 2004, *ROUGE*; Maini et al., *TOFU*, arXiv:2401.06121; computed by `rouge-score`.
    """
    if not any(char.isascii() and char.isalnum() for char in reference.lower()):
        raise VestigeError(f"ROUGE-L needs a reference with a word of a-z or 0-9, got {reference[:40]!r}")
    return float(_scorer(stemmer).score(reference, generated)["rougeL"].recall)


@lru_cache(maxsize=2)
def _scorer(stemmer: bool) -> Any:
    # Imported on first use: it loads NLTK, which would slow down every start of the command line.
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rougeL"], use_stemmer=stemmer)


def unique_token_ratio(generated: npt.ArrayLike) -> float | None:
    """Return distinct over all generated tokens, or None where nothing was generated.

    higher_is: useful (a low value is a degenerate output). Range (0, 1]. Floor: 1/n for one token repeated; falls with
    length in healthy text too, so compare at equal length, next to the original model. None means an empty output:
    count those, do not average them.

    Args:
        generated: New token ids, or text, which is split at whitespace.

    Source:
        Vestige's guard; also known as distinct-1 (Li et al. 2015, arXiv:1510.03055).
    """
    tokens = _tokens(generated)
    return len(set(tokens)) / len(tokens) if tokens else None


def repeat_4(generated: npt.ArrayLike) -> float | None:
    """Return the share of 4-grams that occurred earlier in the same output, or None where there is no 4-gram.

    higher_is: useful once flipped to `1 - repeat_4`; high is degenerate. Range [0, 1). Floor: 0.

    Args:
        generated: New token ids, or text, which is split at whitespace.

    Source:
        Welleck et al. 2019, arXiv:1908.04319, seq-rep-4.
    """
    tokens = _tokens(generated)
    grams = [tuple(tokens[i : i + 4]) for i in range(len(tokens) - 3)]
    return 1 - len(set(grams)) / len(grams) if grams else None


def _tokens(generated: npt.ArrayLike) -> list[Any]:
    if isinstance(generated, str):
        return generated.split()
    # Through NumPy, because the elements of a tensor hash by identity and would all count as distinct.
    ids = np.asarray(generated)
    if ids.ndim != 1:
        raise VestigeError(f"generated tokens must be one flat list of ids, got shape {list(ids.shape)}")
    return list(ids.tolist())
