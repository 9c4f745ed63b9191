"""Windows of text, all of one length, and the latents that fire in them: what interpretability scores compare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array

from hooked import HookedModel, VestigeError
from sae.chosen import existing
from sae.positions import Positions
from sae.read import read_coder
from sae.stream import stream


class TooFewError(VestigeError):
    """A latent is active, or silent, in too few texts for a score."""


@dataclass(frozen=True, eq=False)
class Windows:
    """Neighbouring tokens of texts, cut without overlap.

    Args:
        ids: Token ids.
        documents: Text that each window is from.
        values: Largest value of every latent in each window (smallest, where that is the larger magnitude of a signed
            latent).
        rule: Which tokens count; others are in no window.
        coder_sha256: Of which SAE.
    """

    ids: Int[np.ndarray, "n width"]
    documents: Int[np.ndarray, " n"]
    values: csr_array
    rule: Positions
    coder_sha256: str

    def __len__(self) -> int:
        return len(self.documents)

    def of(self, latent: int) -> Float[np.ndarray, " n"]:
        """Return the values of a latent.

        Raises:
            VestigeError: There is no such latent.
        """
        return np.asarray(self.values[:, existing([latent], self.values.shape[1])].toarray()[:, 0])


def read_windows(model: HookedModel, sae: Any, texts: Sequence[Any], *, width: int = 16, **settings: Any) -> Windows:
    """Run texts through a model and an SAE and cut them into windows; what is left at the end of a text is dropped.

    Args:
        model: A model, or a view of one.
        sae: A `sae_lens.SAE` or a `Coder`.
        texts: Texts, or sequences of token ids.
        width: Tokens of a window.
        settings: As in `sae.stream.stream`.

    Raises:
        VestigeError: No text is as long as a window, or the SAE does not fit the model.
    """
    if width < 1:
        raise VestigeError(f"a window has at least 1 token, got {width}")
    coder = read_coder(sae)
    seen = np.zeros(len(texts), dtype=np.int64)
    kept: list[tuple[np.ndarray[Any, Any], ...]] = []
    cells: list[tuple[np.ndarray[Any, Any], ...]] = []
    rule = Positions()
    for rows in stream(model, coder, list(texts), **settings):
        coder, rule = coder.to(rows.acts.device), rows.rule
        documents = rows.documents.cpu().numpy()
        places = _places(documents, seen)
        kept.append((documents, places, rows.tokens.cpu().numpy()))
        found = coder.sparse(rows.acts)
        index = found.rows.cpu().numpy()
        cells.append(
            (documents[index], places[index] // width, found.latents.cpu().numpy(), found.values.cpu().numpy())
        )
    full = seen // width
    if not full.sum():
        raise VestigeError(f"no text has {width} tokens that count, the longest has {seen.max(initial=0)}; pass width=")
    first = np.concatenate([[0], np.cumsum(full)])
    ids = np.zeros((int(first[-1]), width), dtype=np.int64)
    documents, places, tokens = (np.concatenate(column) for column in zip(*kept, strict=True))
    inside = places < full[documents] * width
    ids[first[documents[inside]] + places[inside] // width, places[inside] % width] = tokens[inside]
    owners, windows, latents, values = (np.concatenate(column) for column in zip(*cells, strict=True))
    inside = windows < full[owners]
    values = _largest(first[owners[inside]] + windows[inside], latents[inside], values[inside], len(ids), coder.d_sae)
    return Windows(ids, np.repeat(np.arange(len(texts)), full), values, rule, coder.sha256)


def _places(documents: Int[np.ndarray, " n"], seen: Int[np.ndarray, " texts"]) -> Int[np.ndarray, " n"]:
    """Count the tokens of each document on from what was seen of it before, and remember."""
    order = np.argsort(documents, kind="stable")
    ordered = documents[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, dtype=np.int64)
    lengths = np.diff(np.r_[starts, len(ordered)])
    places = np.empty(len(documents), dtype=np.int64)
    places[order] = np.arange(len(ordered)) - np.repeat(starts, lengths) + seen[ordered]
    seen[ordered[starts]] += lengths
    return places


def _largest(
    rows: Int[np.ndarray, " nnz"],
    latents: Int[np.ndarray, " nnz"],
    values: Float[np.ndarray, " nnz"],
    n: int,
    d_sae: int,
) -> csr_array:
    keys = rows * d_sae + latents
    order = np.lexsort((np.abs(values), keys))
    keys, values = keys[order], values[order].astype(np.float64)
    last = np.r_[keys[1:] != keys[:-1], True] if len(keys) else np.zeros(0, dtype=bool)
    return csr_array((values[last], (keys[last] // d_sae, keys[last] % d_sae)), shape=(n, d_sae))


def window_texts(model: HookedModel, windows: Windows) -> list[str]:
    """Return each window as text, for people and language models."""
    return [model.to_string(torch.from_numpy(row)) for row in windows.ids]
