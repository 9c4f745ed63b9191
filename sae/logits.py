"""Logit effect: which next tokens a latent speaks for and against, on the direct path from its decoder row."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from hooked import Decoder, HookedModel, VestigeError
from hooked.kernels.matmul_topk import matmul_topk
from sae.chosen import existing
from sae.read import read_coder

# Sites whose values are added to the residual stream as they are.
IN_STREAM = ("hook_embed", "hook_resid_pre", "hook_resid_mid", "hook_resid_post", "hook_attn_out", "hook_mlp_out")


@dataclass(frozen=True, eq=False)
class LogitEffect:
    """The tokens at both ends of each latent's effect on the logits.

    An effect is valid up to a positive factor that depends on the position (the final norm divides by the length of
    the stream), so tokens of one latent can be compared, and z-scores of two.

    Args:
        latents: Which latents.
        top: Token ids, largest effect first.
        top_z: Their effects: distance from the mean over the vocabulary, in standard deviations over it.
        bottom: Token ids, smallest effect first.
        bottom_z: Their effects.
        spread: Standard deviation over the vocabulary; 0 for a latent without direct effect, whose z-scores are 0.
        top_tokens: The ids as text; None without a tokenizer.
        bottom_tokens: Likewise.
    """

    latents: Int[Tensor, " n"]
    top: Int[Tensor, "n k"]
    top_z: Float[Tensor, "n k"]
    bottom: Int[Tensor, "n k"]
    bottom_z: Float[Tensor, "n k"]
    spread: Float[Tensor, " n"]
    top_tokens: tuple[tuple[str, ...], ...] | None
    bottom_tokens: tuple[tuple[str, ...], ...] | None

    def __str__(self) -> str:
        if self.top_tokens is None or self.bottom_tokens is None:
            return f"LogitEffect({len(self.latents)} latents, {self.top.shape[1]} tokens each, no tokenizer)"
        rows = zip(self.latents.tolist(), self.top_tokens, self.bottom_tokens, strict=True)
        return "\n".join(f"{j}: + {_listed(up)}  - {_listed(down)}" for j, up, down in rows)


@torch.no_grad()
def logit_effect(model: HookedModel, sae: Any, *, latents: Sequence[int] | None = None, k: int = 10) -> LogitEffect:
    """Return the tokens whose logits a latent raises and lowers most when nothing comes in between.

    The effect is `(D_j * gain) W_U` less its mean over the vocabulary; where the final norm centres, D_j is centred
    first. All latents by all tokens never exist at once.

    Args:
        model: A model, or a view of one.
        sae: A `sae_lens.SAE` or a `Coder`.
        latents: Which; all when None.
        k: Tokens at either end.

    Raises:
        VestigeError: The SAE does not write to the residual stream, a latent does not exist, or k is out of range.
    """
    coder = read_coder(sae)
    chosen = _chosen(latents, coder.d_sae)
    rows = through_norm(model.decoder, stream_rows(model, coder)[chosen])
    W_U = centred_unembedding(model).to(rows.device)
    spread = _spread(rows, W_U)
    scale = torch.where(spread > 0, spread, torch.inf)[:, None]
    ends = [matmul_topk(rows, W_U, k, largest=largest) for largest in (True, False)]
    (top, bottom), (top_z, bottom_z) = [e.indices for e in ends], [e.values / scale for e in ends]
    texts = [_texts(model, ids) for ids in (top, bottom)]
    return LogitEffect(chosen, top, top_z, bottom, bottom_z, spread, *texts)


@torch.no_grad()
def token_effect(model: HookedModel, sae: Any, token: int) -> Float[Tensor, " d_sae"]:
    """Return the z-scored effect of every latent on one token's logit.

    Raises:
        VestigeError: The SAE does not write to the residual stream, or the token does not exist.
    """
    if not 0 <= token < model.W_U.shape[1]:
        raise VestigeError(f"no token {token} in a vocabulary of {model.W_U.shape[1]:,}")
    rows = through_norm(model.decoder, stream_rows(model, read_coder(sae)))
    W_U = centred_unembedding(model).to(rows.device)
    spread = _spread(rows, W_U)
    effect: Tensor = (rows @ W_U[:, token]) / torch.where(spread > 0, spread, torch.inf)
    return effect


def stream_rows(model: HookedModel, sae: Any) -> Float[Tensor, "d_sae d_model"]:
    """Return decoder rows as they are added to the residual stream.

    Raises:
        VestigeError: The SAE writes at a site outside the residual stream.
    """
    coder = read_coder(sae)
    site = model.site_map.resolve(coder.site_out)
    if not site.endswith(IN_STREAM) or coder.decoder.shape[1] != model.d_model:
        raise VestigeError(
            f"'{site}' ({coder.decoder.shape[1]} values) is not part of the residual stream ({model.d_model}), so its "
            f"latents have no direct effect on logits; sites that are end in {', '.join(IN_STREAM)}"
        )
    return coder.decoder.float().to(model.W_U.device)


@torch.no_grad()
def through_norm(decoder: Decoder, rows: Float[Tensor, "n d_model"]) -> Float[Tensor, "n d_model"]:
    """Return what is left of directions after the final norm, up to the factor that it divides by.

    Gain and centring are read off the norm's own values, so that it does not matter how a family parametrises them.
    """
    if decoder.norm is None:
        return rows
    norm: nn.Module = copy.deepcopy(decoder.norm).to(rows.device, torch.float32)
    # Without zeros, so that every gain can be read, and far from 0 in length, so that the norm's epsilon is nothing.
    probe = 100.0 * (1 - 2 * (torch.arange(rows.shape[1], device=rows.device) % 2)).float()
    still = norm.forward(torch.zeros_like(probe))
    answer, shifted = norm.forward(probe) - still, norm.forward(probe + 50.0) - still
    centres = bool(torch.allclose(answer, shifted, rtol=1e-3, atol=1e-3 * float(answer.abs().max())))
    unit = probe - probe.mean() if centres else probe
    gain = answer / (unit / unit.square().mean().sqrt())
    kept: Tensor = (rows - rows.mean(-1, keepdim=True) if centres else rows) * gain
    return kept


def centred_unembedding(model: HookedModel) -> Float[Tensor, "d_model d_vocab"]:
    """Return the unembedding less its mean over the vocabulary."""
    W_U = model.W_U.float()
    return W_U - W_U.mean(-1, keepdim=True)


def _spread(rows: Float[Tensor, "n d_model"], W_U: Float[Tensor, "d_model d_vocab"]) -> Float[Tensor, " n"]:
    # In float64, since a direction that hardly matters would lose its few digits in the product.
    wide = rows.double()
    variance = ((wide @ (W_U.double() @ W_U.double().T)) * wide).sum(-1) / W_U.shape[1]
    return variance.clamp(min=0).sqrt().float()


def _chosen(latents: Sequence[int] | None, d_sae: int) -> Int[Tensor, " n"]:
    if latents is None:
        return torch.arange(d_sae)
    return torch.tensor(existing(latents, d_sae), dtype=torch.int64)


def _texts(model: HookedModel, ids: Int[Tensor, "n k"]) -> tuple[tuple[str, ...], ...] | None:
    if model.tokenizer is None:
        return None
    known = {i: model.to_single_str_token(i) for i in ids.unique().tolist()}
    return tuple(tuple(known[i] for i in row) for row in ids.tolist())


def _listed(tokens: Sequence[str]) -> str:
    return " ".join(repr(token) for token in tokens)
