"""The activations that an SAE reads, batch by batch, with where they come from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import HookedModel, VestigeError
from hooked.harvest.corpus import Corpus
from hooked.harvest.plan import Reading, reading
from hooked.harvest.record import TokenRecorder
from hooked.harvest.steps import batches_of, expected_tokens, forward
from hooked.progress import bar
from sae.coder import Coder
from sae.positions import Positions, norm_limit, special_ids


@dataclass(frozen=True, eq=False)
class Rows:
    """The tokens of one batch that count.

    Args:
        acts: Their activations, heads side by side.
        tokens: Token ids.
        documents: Numbers of documents.
        positions: Positions that the model saw.
        rule: Which tokens count; the same value in every batch of a pass.
    """

    acts: Float[Tensor, "n d_in"]
    tokens: Int[Tensor, " n"]
    documents: Int[Tensor, " n"]
    positions: Int[Tensor, " n"]
    rule: Positions

    def __len__(self) -> int:
        return len(self.acts)


@dataclass
class Gathered(TokenRecorder):
    """Copies the kept rows of one site."""

    rows: list[Tensor] = field(default_factory=list)

    def take(self, site: str, rows: Float[Tensor, "places d"], index: Int[Tensor, " n"]) -> None:
        """Copy the rows."""
        self.rows.append(rows[index])


def site_on(model: HookedModel, coder: Coder) -> str:
    """Return the canonical name of the site where a coder reads a model.

    Raises:
        VestigeError: The model has no such site (an SAE of another model), or of another width.
    """
    site = model.site_map.resolve(coder.site)
    width = model.config.hidden_size
    if site.endswith(("hook_resid_pre", "hook_resid_mid", "hook_resid_post", "_out")) and width != coder.d_in:
        raise VestigeError(
            f"the SAE reads {coder.d_in} values per token and '{site}' of {model.name} has {width}: "
            "it belongs to another model"
        )
    return site


def stream(
    model: HookedModel,
    coder: Coder,
    corpus: Any,
    *,
    rule: Positions | None = None,
    max_norm_ratio: float | None = 10.0,
    context_size: int | None = None,
    batch_tokens: int = 8192,
    max_tokens: int | None = None,
    exclude_special: bool = True,
    prepend_bos: bool | None = None,
    text_field: str = "text",
    progress: bool = False,
    what: str = "reading latents",
) -> Iterator[Rows]:
    """Run a corpus through a model and yield what an SAE reads, in memory that does not grow with the corpus.

    Args:
        model: A model, or a view of one.
        coder: Says where.
        corpus: Whatever `hooked.harvest` takes.
        rule: Which tokens count; made from the next two when None.
        max_norm_ratio: Leave out tokens whose activation is longer than so many times the median norm of the first
            batch; None keeps all.
        context_size: As in `hooked.harvest`.
        batch_tokens: As in `hooked.harvest`.
        max_tokens: Tokens to read at most.
        exclude_special: Leave out special tokens.
        prepend_bos: As in `hooked.harvest`.
        text_field: As in `hooked.harvest`.
        progress: Show a bar on a terminal.
        what: What the bar says.

    Raises:
        VestigeError: The site does not exist, widths differ, or the corpus cannot be read.
    """
    site = site_on(model, coder)
    bos = model.default_prepend_bos if prepend_bos is None else prepend_bos
    read = Corpus(corpus, model.tokenizer, bos, text_field)
    settled = reading(
        model,
        packing="documents",
        context_size=context_size,
        batch_tokens=batch_tokens,
        max_tokens=max_tokens,
        exclude_special=exclude_special,
    )
    if rule is None:
        rule = Positions(special_ids(model) if exclude_special else ())
    else:
        settled = replace(settled, excluded=rule.excluded)
        max_norm_ratio = None
    with bar(expected_tokens(read, settled), show=progress, what=what) as shown:
        for batch, acts in _forwards(model, coder, site, read, settled):
            if max_norm_ratio is not None and len(acts):
                rule, max_norm_ratio = replace(rule, max_norm=norm_limit(acts, max_norm_ratio)), None
            kept = rule.within(acts)
            tokens, documents, positions = (column.to(acts.device)[kept].long() for column in batch.provenance)
            yield Rows(acts[kept], tokens, documents, positions, rule)
            shown.update(len(batch))


def _forwards(
    model: HookedModel, coder: Coder, site: str, read: Corpus, settled: Reading
) -> Iterator[tuple[Any, Tensor]]:
    for batch in batches_of(read, settled):
        recorder = Gathered((site,), index=batch.index)
        forward(model, batch, recorder)
        acts = coder.flat(torch.cat(recorder.rows))
        yield batch, acts
