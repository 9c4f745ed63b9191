"""`summarise`: statistics of a corpus' activations, and the tokens that activate most, with nothing stored."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked.capture import NamesFilter
from hooked.errors import VestigeError
from hooked.harvest.corpus import Corpus
from hooked.harvest.packing import Packing
from hooked.harvest.plan import reading, row_shapes, without_twins
from hooked.harvest.steps import batches_of, expected_tokens, forward
from hooked.harvest.tally import Rooms, SiteTally, TallyRecorder
from hooked.model import HookedModel
from hooked.progress import bar
from hooked.sites import BySite
from hooked.stats import RunningMoments


@dataclass(frozen=True, eq=False)
class TopTokens:
    """The largest values of every column, largest first, and where they stand.

    Equal values are in the order of the corpus. A column that has fewer than k values (NaN is none) ends with NaN, and
    -1 for the rest.

    Args:
        values: Activations; every neuron's, for a site of neurons.
        tokens: Token ids.
        documents: Numbers of documents, in the order of the corpus.
        positions: Positions that the model saw them at.
    """

    values: Float[Tensor, "d k"]
    tokens: Int[Tensor, "d k"]
    documents: Int[Tensor, "d k"]
    positions: Int[Tensor, "d k"]


@dataclass(frozen=True, eq=False)
class SiteSummary:
    """What the rows of one site are like, one row per token. Sites with heads are flattened to `n_heads * d_head`.

    Args:
        site: Canonical name.
        shape: Shape of one activation before it was flattened.
        rows: Tokens seen.
        moments: Count, mean and deviations of the rows in which every value was finite.
        absmax: Largest finite magnitude per column.
        not_finite: Values that were NaN or infinite.
        top: Where each column is largest; None unless asked for.
    """

    site: str
    shape: tuple[int, ...]
    rows: int
    moments: RunningMoments
    absmax: Float[Tensor, " d"]
    not_finite: int
    top: TopTokens | None = None

    @property
    def count(self) -> int:
        """Rows in which every value was finite; mean, variance and covariance are theirs."""
        return self.moments.count

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """Mean per column, float64.

        Raises:
            VestigeError: No row was finite.
        """
        return self._of_finite_rows.mean

    @property
    def variance(self) -> Float[Tensor, " d"]:
        """Population variance per column, float64.

        Raises:
            VestigeError: No row was finite.
        """
        return self._of_finite_rows.variance

    @property
    def std(self) -> Float[Tensor, " d"]:
        """Sample standard deviation per column, float64.

        Raises:
            VestigeError: Fewer than two rows were finite.
        """
        return self.moments.std

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """Population covariance of the columns, float64.

        Raises:
            VestigeError: It was not asked for, or no row was finite.
        """
        return self._of_finite_rows.covariance

    @property
    def _of_finite_rows(self) -> RunningMoments:
        if not self.moments.count:
            raise VestigeError(f"none of the {self.rows} rows of '{self.site}' is finite, so they have no mean")
        return self.moments


def summarise(
    model: HookedModel,
    corpus: Any,
    *,
    sites: NamesFilter,
    covariance: bool = False,
    top_k: int = 0,
    packing: Packing = "documents",
    context_size: int | None = None,
    batch_tokens: int = 8192,
    max_tokens: int | None = None,
    exclude_special: bool = True,
    prepend_bos: bool | None = None,
    text_field: str = "text",
    progress: bool = True,
) -> BySite[SiteSummary]:
    """Run a corpus through a model and describe the activations of some sites, without storing any.

    Every activation is read once, while it is hot, and what is summed is summed in float64 around a shift, so that a
    mean that is large against the spread costs no digits. Memory does not depend on the length of the corpus: it is
    d numbers per site, 16 d k bytes for the top tokens, and about 3 x 8 d^2 bytes while a covariance is added up.
    `batch_tokens` changes results by rounding only. float64 activations are read as float32.

    Args:
        model: A model, or a view of one with interventions in force.
        corpus: Whatever `harvest` takes.
        sites: A site, a list of sites, or a predicate on canonical names.
        covariance: Whether the covariance of the columns is computed too: d^2 numbers per site, and as many products
            per token.
        top_k: Number of most activating tokens to keep per column (neuron).
        packing: As in `harvest`.
        context_size: As in `harvest`.
        batch_tokens: Places of a batch, padding included.
        max_tokens: Tokens to look at, exactly; the whole corpus when None.
        exclude_special: Leave out special tokens (BOS, EOS, padding).
        prepend_bos: One BOS in front of text; the model's default when None.
        text_field: Field of a row that holds its text.
        progress: Show a bar on a terminal.

    Returns:
        Canonical names to summaries, in the order of the forward pass.

    Raises:
        VestigeError: A site does not exist, a size is not positive, the corpus has no tokens, or a document cannot be
            read.
    """
    if type(top_k) is not int or top_k < 0:
        raise VestigeError(f"top_k is a whole number of at least 0, got {top_k!r}")
    read = Corpus(
        corpus, model.tokenizer, model.default_prepend_bos if prepend_bos is None else prepend_bos, text_field
    )
    settled = reading(
        model,
        packing=packing,
        context_size=context_size,
        batch_tokens=batch_tokens,
        max_tokens=max_tokens,
        exclude_special=exclude_special,
    )
    shapes = row_shapes(model, sites)
    read_at, aliases = without_twins(model, shapes)
    rooms: Rooms = {}
    tallies = {
        name: SiteTally(math.prod(shape), covariance=covariance, top_k=top_k, rooms=rooms)
        for name, shape in read_at.items()
    }
    rows = 0
    with bar(expected_tokens(read, settled), show=progress, what="summarise") as shown:
        for batch in batches_of(read, settled):
            tokens, documents, positions = batch.provenance
            # Of equal values the first document's is kept, and batches are not in the order of the corpus.
            labels = torch.stack([documents, tokens, positions], -1)
            forward(model, batch, TallyRecorder(tuple(read_at), index=batch.index, tallies=tallies, labels=labels))
            rows += len(batch)
            shown.update(len(batch))
    if not rows:
        raise VestigeError("the corpus has no token to look at")
    every = {name: _summary(name, shape, rows, tallies[aliases.get(name, name)]) for name, shape in shapes.items()}
    found = BySite(every, n_layers=model.n_layers)
    _report(found, rows, max_tokens)
    return found


def _summary(site: str, shape: tuple[int, ...], rows: int, tally: SiteTally) -> SiteSummary:
    totals, top = tally.totals, None
    if tally.top is not None:
        values, labels = tally.top
        documents, tokens, positions = (column.contiguous() for column in labels.unbind(-1))
        top = TopTokens(values, tokens, documents, positions)
    return SiteSummary(site, shape, rows, totals.moments, totals.absmax, totals.not_finite, top)


def _report(found: BySite[SiteSummary], rows: int, asked: int | None) -> None:
    """Warn of what a user would not want to find out later."""
    if asked is not None and rows < asked:
        warnings.warn(f"the corpus ended after {rows:,} of the {asked:,} tokens asked for", stacklevel=3)
    for name, summary in found.items():
        if summary.not_finite:
            warnings.warn(f"'{name}': {summary.not_finite:,} activations were NaN or infinite", stacklevel=3)
