"""Tuned lens: the logit lens after an affine map per block, fitted so that each block says what the last one will.

Early blocks keep what they know in other coordinates than the unembedding reads. The maps are fitted on a model before
unlearning and on texts that have nothing to do with what is forgotten, or they would learn the answers themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import Decoder, VestigeError

_LEAST_ROWS = 10
_SCORED_AT_ONCE = 256


@dataclass(frozen=True, eq=False)
class TunedLens:
    """Fitted maps `h + A_l h + b_l`, read through a final norm and unembedding. Build one with `fit_tuned_lens`.

    Args:
        A: One matrix per block; zero is the logit lens.
        b: One offset per block.
        decoder: Final norm and unembedding.
        before: Mean KL from the last block's distribution to the logit lens of each block, on rows held out, in nats.
        after: The same for the tuned lens.
    """

    A: Float[Tensor, "n_layers d_model d_model"]
    b: Float[Tensor, "n_layers d_model"]
    decoder: Decoder
    before: tuple[float, ...]
    after: tuple[float, ...]

    def __call__(self, layer: int, acts: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_vocab"]:
        """Return the logits of a residual stream behind one block."""
        A, b = self.A[layer].to(acts), self.b[layer].to(acts)
        return self.decoder.lens(acts + acts @ A.T + b)


# Maps made in inference mode could not be trained.
@torch.inference_mode(False)
def fit_tuned_lens(
    acts: Float[Tensor, "n n_layers d_model"],
    decoder: Decoder,
    *,
    steps: int = 100,
    lr: float = 1e-3,
    weight_decay: float = 1e-3,
    batch_size: int = 128,
    held_out: float = 0.2,
    check_every: int = 10,
    seed: int = 0,
) -> TunedLens:
    """Fit the maps by Adam on `KL(last block's distribution, lens of block l)`, from zero, which is the logit lens.

    Each block keeps the map that does best on rows held out, the zero map included, so that none is worse there than
    the logit lens. The last block's is zero.

    Args:
        acts: Residual stream after every block, one row per token of neutral text; float32 or wider.
        decoder: Of the same model.
        steps: Updates.
        lr: Of Adam.
        weight_decay: Of Adam, decoupled.
        batch_size: Rows per update.
        held_out: Share of the rows that is not trained on, between 0 and 1.
        check_every: Updates between two looks at them.
        seed: Of the split and the batches.

    Raises:
        VestigeError: Fewer than 10 rows, another width than the decoder's, values that are not finite, or a setting out
            of range.

    Source:
        Belrose et al. 2023, arXiv:2303.08112. They train with SGD, on all positions, and keep the last map.
    """
    n, n_layers, d_model = acts.shape
    _check(acts, decoder, steps=steps, batch_size=batch_size, check_every=check_every, held_out=held_out)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator)
    test, train = order[: max(1, int(held_out * n))], order[max(1, int(held_out * n)) :]
    acts = acts.detach().clone()
    A = torch.zeros(n_layers, d_model, d_model, dtype=acts.dtype, device=acts.device)
    lens = TunedLens(A, torch.zeros_like(A[:, 0]), decoder, (), ())
    before = _losses(lens, acts[test])
    best_A, best_b, best = A.clone(), lens.b.clone(), before.clone()
    trained = [A.requires_grad_(), lens.b.requires_grad_()]
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)
    for step in range(1, steps + 1):
        rows = train[torch.randint(len(train), (min(batch_size, len(train)),), generator=generator)]
        with torch.enable_grad():
            # Only the maps: the decoder's own parameters get no gradient.
            found = torch.autograd.grad(_kl(lens, acts[rows]).sum(), trained)
        for parameter, gradient in zip(trained, found, strict=True):
            parameter.grad = gradient
        optimizer.step()
        if step % check_every == 0 or step == steps:
            now = _losses(lens, acts[test])
            better = now < best
            best = torch.where(better, now, best)
            best_A = torch.where(better[:, None, None], A.detach(), best_A)
            best_b = torch.where(better[:, None], lens.b.detach(), best_b)
    return TunedLens(best_A, best_b, decoder, tuple(before.tolist()), tuple(best.tolist()))


def _kl(lens: TunedLens, acts: Float[Tensor, "rows n_layers d_model"]) -> Float[Tensor, " n_layers"]:
    """Mean KL from the last block's distribution to that of each block; the last block's is 0."""
    with torch.no_grad():
        final = lens.decoder.lens(acts[:, -1]).log_softmax(-1)
    found = []
    for layer in range(acts.shape[1] - 1):
        said = lens(layer, acts[:, layer]).log_softmax(-1)
        found.append((final.exp() * (final - said)).sum(-1).mean())
    return torch.stack([*found, torch.zeros_like(found[0])]) if found else lens.b.sum(-1) * 0


@torch.no_grad()
def _losses(lens: TunedLens, acts: Float[Tensor, "rows n_layers d_model"]) -> Float[Tensor, " n_layers"]:
    parts = acts.split(_SCORED_AT_ONCE)
    return torch.stack([_kl(lens, part) * len(part) for part in parts]).sum(0) / len(acts)


def _check(acts: Tensor, decoder: Decoder, *, steps: int, batch_size: int, check_every: int, held_out: float) -> None:
    if len(acts) < _LEAST_ROWS:
        raise VestigeError(f"a tuned lens is fitted on at least {_LEAST_ROWS} rows, got {len(acts)}")
    if acts.shape[-1] != decoder.W_U.shape[0]:
        raise VestigeError(f"the residuals have width {acts.shape[-1]}, the decoder {decoder.W_U.shape[0]}")
    if not bool(torch.isfinite(acts).all()):
        raise VestigeError("the residuals hold NaN or infinity; the model has diverged, so no lens can be fitted")
    for name, value, least in (("steps", steps, 0), ("batch_size", batch_size, 1), ("check_every", check_every, 1)):
        if value < least:
            raise VestigeError(f"{name} is at least {least}, got {value}")
    if not 0 < held_out < 1:
        raise VestigeError(f"held_out is a share of the rows between 0 and 1, got {held_out}")
