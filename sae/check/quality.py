"""How good a sparse autoencoder is: on activations, and on what the model predicts when it reads reconstructions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked import HookContext, HookedModel, TokenBatch, VestigeError
from hooked.harvest.corpus import Corpus
from hooked.harvest.plan import reading
from hooked.harvest.steps import batches_of, expected_tokens
from hooked.progress import bar
from sae.check.measures import Measures
from sae.positions import Positions, norm_limit, special_ids
from sae.read import read_coder
from sae.stream import site_on


@dataclass(frozen=True)
class Quality:
    """What `quality` measured. Cross-entropies are in nats per token and None where no model was run.

    Args:
        tokens: Tokens that were reconstructed.
        fvu: Fraction of variance unexplained.
        l0: Latents that fire per token.
        dead: Share of latents that never fired on these tokens.
        dense: Share of latents that fired on more than a tenth of them.
        cosine: Mean cosine of activation and reconstruction.
        norm: Mean norm of an activation.
        extreme: Share of tokens that were left out for their norm.
        ce_clean: Cross-entropy of the model.
        ce_reconstructed: The same when it reads reconstructions.
        ce_zero: The same when it reads zeros.
    """

    tokens: int
    fvu: float
    l0: float
    dead: float
    dense: float
    cosine: float
    norm: float
    extreme: float = 0.0
    ce_clean: float | None = None
    ce_reconstructed: float | None = None
    ce_zero: float | None = None

    @property
    def fve(self) -> float:
        """Fraction of variance explained, 1 - `fvu`; below 0 where the mean activation would do better."""
        return 1.0 - self.fvu

    @property
    def ce_recovered(self) -> float | None:
        """Share of what zeros cost that reconstructions do not: 1 where they cost nothing, 0 where they cost as much.

        None where no model was run, or where zeros cost nothing.
        """
        if self.ce_clean is None or self.ce_reconstructed is None or self.ce_zero is None:
            return None
        lost = self.ce_zero - self.ce_clean
        return (self.ce_zero - self.ce_reconstructed) / lost if lost > 0 else None

    def __str__(self) -> str:
        text = (
            f"FVU {self.fvu:.4f}, L0 {self.l0:.1f}, dead {self.dead:.1%}, dense {self.dense:.1%}, "
            f"cosine {self.cosine:.4f}"
        )
        if self.ce_clean is not None:
            recovered = "n/a" if self.ce_recovered is None else f"{self.ce_recovered:.1%}"
            text += (
                f", CE {self.ce_clean:.3f} clean, {self.ce_reconstructed:.3f} reconstructed, {self.ce_zero:.3f} zero "
                f"({recovered} recovered)"
            )
        return f"{text}, over {self.tokens:,} tokens"


def quality_of(measures: Measures, **more: Any) -> Quality:
    """Return the quality that some sums amount to."""
    names = ("tokens", "fvu", "l0", "dead", "dense", "cosine", "norm")
    found: dict[str, Any] = {name: getattr(measures, name) for name in names}
    return Quality(**found, **more)


@torch.no_grad()
def quality(
    model: HookedModel,
    sae: Any,
    corpus: Any,
    *,
    ce: bool = True,
    rule: Positions | None = None,
    max_norm_ratio: float | None = 10.0,
    context_size: int | None = None,
    batch_tokens: int = 2048,
    max_tokens: int | None = 50_000,
    exclude_special: bool = True,
    prepend_bos: bool | None = None,
    text_field: str = "text",
    progress: bool = False,
) -> Quality:
    """Measure an SAE on a corpus, in memory that does not grow with it.

    Tokens that do not count (special ones, extreme norms) keep their activation in every run and enter no average of
    the activations; cross-entropy is over all predictions of a real token.

    Args:
        model: The model that the SAE reads.
        sae: A `sae_lens.SAE` or a `Coder`; a transcoder is measured against its output site.
        corpus: Whatever `hooked.harvest` takes.
        ce: Whether the model is also run on reconstructions and on zeros, which takes three passes instead of one.
        rule: Which tokens count; made from the next two when None.
        max_norm_ratio: As in `sae.stream.stream`.
        context_size: As in `hooked.harvest`.
        batch_tokens: As in `hooked.harvest`.
        max_tokens: Tokens to read at most.
        exclude_special: Leave out special tokens.
        prepend_bos: As in `hooked.harvest`.
        text_field: As in `hooked.harvest`.
        progress: Show a bar on a terminal.

    Raises:
        VestigeError: The SAE does not fit the model, or no token counts.
    """
    coder = read_coder(sae).to(model.device)
    site = site_on(model, coder)
    site_out = site_on(model, replace(coder, site=coder.site_out)) if coder.is_transcoder else site
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
    excluded = special_ids(model) if exclude_special else ()
    measures, sums = Measures(coder), dict.fromkeys(("clean", "reconstructed", "zero"), 0.0)
    predicted = real = 0
    with bar(expected_tokens(read, settled), show=progress, what="quality") as shown:
        for batch in batches_of(read, settled):
            tokens = batch.tokens.to(model.device)
            seen, loss = _clean(model, tokens, site, site_out, ce=ce)
            acts = coder.flat(seen[site])
            if not len(batch):
                continue
            if rule is None:
                rows = acts[Positions(excluded).keep(acts, tokens.ids, tokens.mask)]
                rule = Positions(excluded, norm_limit(rows, max_norm_ratio))
            kept = rule.keep(acts, tokens.ids, tokens.mask)
            target = seen[site_out].flatten(2)[kept] if coder.is_transcoder else None
            measures.add(acts[kept], target)
            real += int(Positions(rule.excluded).keep(acts, tokens.ids, tokens.mask).sum())
            shown.update(len(batch))
            if not ce:
                continue
            made = coder.reconstruct(acts)
            sums["clean"] += loss
            sums["reconstructed"] += _loss(model, tokens, site_out, _replaced(made, kept))
            sums["zero"] += _loss(model, tokens, site_out, _replaced(torch.zeros_like(made), kept))
            predicted += int(predictions(tokens).sum())
    losses = {f"ce_{name}": total / predicted for name, total in sums.items()} if predicted else {}
    return quality_of(measures, extreme=1 - measures.tokens / max(real, 1), **losses)


def mmcs(decoder: Float[Tensor, "d_sae d"], truth: Float[Tensor, "n_features d_true"]) -> float:
    """Mean over true features of the largest cosine with any decoder row, sign ignored.

    Args:
        decoder: Rows of any norm above 0; others are left out.
        truth: The true directions.

    Raises:
        VestigeError: Widths differ, or a true direction is zero.
    """
    if decoder.ndim != 2 or truth.ndim != 2 or decoder.shape[1] != truth.shape[1] or not len(decoder):
        raise VestigeError(f"mmcs compares rows of one width, got {tuple(decoder.shape)} and {tuple(truth.shape)}")
    rows, wanted = decoder.double(), truth.double().to(decoder.device)
    if not bool((wanted.norm(dim=-1) > 0).all()):
        raise VestigeError("a true direction is zero; leave it out")
    norms = rows.norm(dim=-1, keepdim=True)
    rows = (rows / norms)[norms[:, 0] > 0]
    wanted = wanted / wanted.norm(dim=-1, keepdim=True)
    return float((wanted @ rows.T).abs().amax(-1).mean())


def _clean(
    model: HookedModel, tokens: TokenBatch, site: str, site_out: str, *, ce: bool
) -> tuple[dict[str, Tensor], float]:
    sites = list(dict.fromkeys((site, site_out)))
    logits, cache = model.run_with_cache(tokens, names_filter=sites, return_type="logits" if ce else None)
    return {name: cache[name] for name in sites}, cross_entropy(logits, tokens) if ce else 0.0


def _replaced(made: Tensor, kept: Tensor) -> Callable[..., Tensor]:
    def replace_rows(activation: Tensor, hook: HookContext) -> Tensor:
        rows = made.view_as(activation).to(activation.dtype)
        where = kept.view(*kept.shape, *[1] * (activation.ndim - kept.ndim))
        return torch.where(where, rows, activation)

    return replace_rows


def _loss(model: HookedModel, tokens: TokenBatch, site: str, edit: Callable[..., Tensor]) -> float:
    return cross_entropy(model.run_with_hooks(tokens, fwd_hooks=[(site, edit)]), tokens)


def predictions(tokens: TokenBatch) -> Bool[Tensor, "batch pos_less_one"]:
    """Return which predictions count: of a real token, from a real token."""
    return tokens.mask[:, 1:] & tokens.mask[:, :-1]


def cross_entropy(logits: Float[Tensor, "batch pos d_vocab"], tokens: TokenBatch) -> float:
    """Return the summed cross-entropy of all predictions of a real token, in nats."""
    real = predictions(tokens)
    return float(
        torch.nn.functional.cross_entropy(logits[:, :-1][real].float(), tokens.ids[:, 1:][real], reduction="sum")
    )
