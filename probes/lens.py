"""Logit lens: what would the model say if it stopped after each block?

The residual stream of one model (the subject) is read through the final norm and unembedding of a decoder, by default
the subject itself; an audit passes the original model, so that an edited unembedding is not mistaken for erasure. The
norm is applied exactly once at every layer, the last one included, and logit soft-capping is kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import Decoder, HookContext, HookedModel, Item, TokenBatch, VestigeError

_MIN_PERMUTATIONS = 20


@dataclass(frozen=True)
class LensReading:
    """What the lens shows of one target token per row, layer by layer.

    Args:
        log_prob: Log-probability of the target, in nats.
        rank: Number of tokens ahead of the target, 0 when it is the most likely one; tokens with an equal logit count
            half, so that a constant output ranks every target in the middle and none first.
        targets: The target ids.
        sites: The sites that were read.
    """

    log_prob: Float[Tensor, "n_layers n"]
    rank: Float[Tensor, "n_layers n"]
    targets: Int[Tensor, " n"]
    sites: tuple[str, ...]


@dataclass(frozen=True)
class LensFloor:
    """What the lens shows of targets that were permuted across the rows: the share of a leak that the answers' style
    explains.

    Compute a statistic over the last axis for every permutation; its mean is the floor and its 95th percentile the bar
    to clear.

    Args:
        log_prob: Log-probability of the permuted target, in nats.
        rank: Its rank, as in `LensReading`.
        sites: The sites that were read.
    """

    log_prob: Float[Tensor, "n_layers permutations n"]
    rank: Float[Tensor, "n_layers permutations n"]
    sites: tuple[str, ...]


def logit_lens(
    model: HookedModel,
    inputs: Sequence[Item] | TokenBatch,
    *,
    targets: Int[Tensor, " n"] | None = None,
    decoder: HookedModel | Decoder | None = None,
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    batch_size: int = 64,
) -> LensReading:
    """Read a target token off the residual stream at each row's last prompt token, at every layer.

    Logits exist for one layer of one batch at a time, at one position per row: `[batch, d_vocab]`, never all layers or
    positions.

    Args:
        model: Whose residual stream is read; edits of a view are seen, its logit edits are not.
        inputs: Items, whose target is the first token of the answer as it follows the prompt; or tokens with answers
            marked.
        targets: Target ids instead of the first answer tokens; needed for a `TokenBatch` without answers.
        decoder: Whose final norm and unembedding are used; the model's own when None.
        site: Kind of site, e.g. `resid_post`, `resid_pre`, `mlp_out`.
        layers: Blocks to read, in this order; all when None.
        batch_size: Rows per forward pass.

    Raises:
        VestigeError: No row or target, a decoder of another width, a site that does not exist, or activations that are
            not finite.

    Source:
        nostalgebraist 2020 (logit lens); Patil, Hase and Bansal 2023, arXiv:2309.17410, for reading deleted facts with
        it.
    """
    batch, wanted = _prepared(model, inputs, targets)
    log_prob, rank, sites = _read(
        model, batch, wanted[:, None], decoder=decoder or model, site=site, layers=layers, batch_size=batch_size
    )
    return LensReading(log_prob[:, :, 0], rank[:, :, 0], wanted.cpu(), sites)


def lens_floor(
    model: HookedModel,
    inputs: Sequence[Item] | TokenBatch,
    *,
    targets: Int[Tensor, " n"] | None = None,
    decoder: HookedModel | Decoder | None = None,
    site: str = "resid_post",
    layers: Sequence[int] | None = None,
    batch_size: int = 64,
    permutations: int = 20,
    seed: int = 0,
) -> LensFloor:
    """Read permuted targets: every row is asked for the targets of other rows. The other arguments are those of
    `logit_lens`.

    A permutation may hand a row its own target or an equal one: where a few answers fit many rows, guessing them is
    part of chance.

    Args:
        permutations: How many, at least 20.
        seed: Of the permutations.

    Raises:
        VestigeError: As `logit_lens`; fewer than 20 permutations or 2 rows.
    """
    batch, wanted = _prepared(model, inputs, targets)
    if permutations < _MIN_PERMUTATIONS or len(wanted) < 2:
        raise VestigeError(
            f"a permutation floor needs at least {_MIN_PERMUTATIONS} permutations of at least 2 rows, "
            f"got {permutations} of {len(wanted)}"
        )
    generator = torch.Generator().manual_seed(seed)
    orders = torch.stack([torch.randperm(len(wanted), generator=generator) for _ in range(permutations)], -1)
    permuted = wanted[orders.to(wanted.device)]
    log_prob, rank, sites = _read(
        model, batch, permuted, decoder=decoder or model, site=site, layers=layers, batch_size=batch_size
    )
    return LensFloor(log_prob.transpose(1, 2), rank.transpose(1, 2), sites)


def _prepared(
    model: HookedModel, inputs: Sequence[Item] | TokenBatch, targets: Int[Tensor, " n"] | None
) -> tuple[TokenBatch, Int[Tensor, " n"]]:
    if len(inputs) == 0:
        raise VestigeError("the lens needs at least one row")
    if isinstance(inputs, TokenBatch):
        batch = inputs.to(model.device)
    else:
        batch = model.tokenize([item.prompt for item in inputs], answers=[item.answer for item in inputs])
    silent = ~batch.prompt.any(-1)
    if bool(silent.any()):
        raise VestigeError(
            f"row {int(silent.nonzero()[0])} has no prompt token at which to read; give it a prompt or a BOS"
        )
    if targets is None:
        bare = ~batch.answer.any(-1)
        if bool(bare.any()):
            raise VestigeError(
                f"row {int(bare.nonzero()[0])} has no answer, so the lens has no target; "
                "give targets= (one token id per row)"
            )
        return batch, batch.ids.gather(-1, batch.answer.long().argmax(-1, keepdim=True))[:, 0]
    if targets.shape != (len(batch),) or targets.is_floating_point():
        raise VestigeError(f"targets are {len(batch)} token ids, got {targets.dtype} of shape {tuple(targets.shape)}")
    return batch, targets.long().to(model.device)


def _read(
    model: HookedModel,
    batch: TokenBatch,
    targets: Int[Tensor, "n m"],
    *,
    decoder: HookedModel | Decoder,
    site: str,
    layers: Sequence[int] | None,
    batch_size: int,
) -> tuple[Float[Tensor, "n_layers n m"], Float[Tensor, "n_layers n m"], tuple[str, ...]]:
    sites = tuple(
        model.site_map.resolve((site, layer)) for layer in (range(model.n_layers) if layers is None else layers)
    )
    d_model, d_vocab = decoder.W_U.shape
    if d_model != model.d_model:
        raise VestigeError(f"the decoder has d_model {d_model}, the model {model.d_model}; a lens needs them equal")
    if int(targets.min()) < 0 or int(targets.max()) >= d_vocab:
        raise VestigeError(f"a target lies outside the decoder's vocabulary of {d_vocab} tokens")
    log_prob = torch.empty(len(sites), *targets.shape, dtype=torch.float32)
    rank = torch.empty(len(sites), *targets.shape, dtype=torch.float32)
    for start in range(0, len(batch), batch_size):
        rows = slice(start, start + batch_size)
        for i, acts in enumerate(_last_prompt_acts(model, batch[rows], sites)):
            log_prob[i, rows], rank[i, rows] = _decode(decoder, acts, targets[rows], sites[i])
    return log_prob, rank, sites


@torch.no_grad()
def _last_prompt_acts(
    model: HookedModel, batch: TokenBatch, sites: Sequence[str]
) -> Iterator[Float[Tensor, "batch d_model"]]:
    """Run one batch up to the unembedding and return each site at the last prompt token of every row."""
    kept: dict[str, Tensor] = {}

    def keep(activation: Tensor, hook: HookContext) -> None:
        rows = torch.arange(len(batch), device=activation.device)
        kept[hook.name] = activation[rows, batch.prompt_last.to(activation.device)].clone()

    model.run_with_hooks(batch, fwd_hooks=[(site, keep) for site in dict.fromkeys(sites)], stop_at_layer=model.n_layers)
    return iter([kept[site] for site in sites])


@torch.no_grad()
def _decode(
    decoder: HookedModel | Decoder, acts: Float[Tensor, "batch d_model"], targets: Int[Tensor, "batch m"], site: str
) -> tuple[Float[Tensor, "batch m"], Float[Tensor, "batch m"]]:
    logits = decoder.lens(acts.to(decoder.W_U.device, decoder.W_U.dtype)).float()
    # NaN compares false with everything and would rank first.
    if not bool(torch.isfinite(logits).all()):
        raise VestigeError(
            f"the lens at '{site}' gives NaN or infinity; the model has diverged, so nothing can be read off it"
        )
    targets = targets.to(logits.device)
    chosen = logits.gather(-1, targets)
    rank = torch.empty_like(chosen)
    for j in range(targets.shape[1]):
        one = chosen[:, j, None]
        rank[:, j] = (logits > one).sum(-1) + 0.5 * ((logits == one).sum(-1) - 1)
    return (chosen - logits.logsumexp(-1, keepdim=True)).cpu(), rank.cpu()
