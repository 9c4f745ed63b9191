"""The training loop of CRISP: three losses, read at sites of the original and of the adapted copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hooked import HookContext, HookedModel, TokenBatch, VestigeError
from hooked.progress import bar
from sae.coder import Coder
from sae.positions import Positions
from sae.unlearn.crisp_loss import feature_loss, stay_loss


@dataclass(frozen=True, eq=False)
class Pushed:
    """What is pushed down at one site.

    Args:
        coder: Says when a latent fires.
        latents: Which.
        rule: Which tokens count.
    """

    coder: Coder
    latents: tuple[int, ...]
    rule: Positions


@dataclass(frozen=True)
class Weights:
    """How the three losses add up: `(1 - retain) feature + retain stay + retain coherence * last`."""

    retain: float
    coherence: float
    margin: float


def descend(
    model: HookedModel,
    student: HookedModel,
    parameters: Sequence[nn.Parameter],
    pushed: Mapping[str, Pushed],
    texts: tuple[Sequence[str], Sequence[str], Sequence[str]],
    *,
    weights: Weights,
    lr: float,
    steps: int,
    batch_size: int,
    context_size: int,
    seed: int,
    progress: bool,
) -> list[float]:
    """Train in place and return the feature loss before each update.

    Args:
        model: The original.
        student: A copy whose `parameters` train.
        parameters: Of the adapters.
        pushed: What is pushed down, by site.
        texts: Forget, retain and coherence texts.
        weights: Of the losses.
        lr: As in `crisp`, like the rest.
        steps: Updates.
        batch_size: Texts of each kind per step.
        context_size: Tokens of a text that are read.
        seed: Of the shuffles.
        progress: Show a bar, if the output is a terminal.

    Raises:
        VestigeError: The loss is not finite.
    """
    optimizer = torch.optim.AdamW(parameters, lr=lr, amsgrad=True)
    width = min(context_size, getattr(model.config, "max_position_embeddings", context_size))
    streams = [_batches(model, some, batch_size, width, seed + 7919 * i) for i, some in enumerate(texts)]
    last = f"blocks.{model.n_layers - 1}.hook_resid_post"
    losses: list[float] = []
    with (
        torch.inference_mode(False),
        torch.enable_grad(),
        bar(steps, what="crisp", unit=" steps", show=progress) as shown,
    ):
        for step in range(steps):
            forget, retain, plain = (next(batches) for batches in streams)
            feature = _feature(model, student, pushed, forget, margin=weights.margin)
            stay = _stay(model, student, list(pushed), retain)
            calm = _stay(model, student, [last], plain)
            loss = (1 - weights.retain) * feature + weights.retain * (stay + weights.coherence * calm)
            if not bool(torch.isfinite(loss)):
                raise VestigeError(f"crisp diverged at step {step + 1} of {steps}: the loss is {loss.item()}; lower lr")
            losses.append(float(feature.detach()))
            grads = torch.autograd.grad(loss, list(parameters), allow_unused=True)
            for parameter, grad in zip(parameters, grads, strict=True):
                parameter.grad = grad
            optimizer.step()
            shown.update(1)
    return losses


def _feature(
    model: HookedModel, student: HookedModel, pushed: Mapping[str, Pushed], batch: TokenBatch, *, margin: float
) -> Tensor:
    with torch.no_grad():
        before = _read(model, list(pushed), batch)
    now = _read(student, list(pushed), batch)
    losses = []
    for site, one in pushed.items():
        kept = one.rule.keep(before[site], batch.ids, batch.mask)
        coder = one.coder.to(now[site].device, torch.promote_types(one.coder.W_enc.dtype, now[site].dtype))
        losses.append(feature_loss(coder, now[site][kept], before[site][kept], one.latents, margin=margin))
    return torch.stack(losses).mean()


def _stay(model: HookedModel, student: HookedModel, sites: Sequence[str], batch: TokenBatch) -> Tensor:
    with torch.no_grad():
        before = _read(model, sites, batch)
    now = _read(student, sites, batch)
    return torch.stack([stay_loss(now[site], before[site].to(now[site].dtype), batch.mask) for site in sites]).mean()


def _read(model: HookedModel, sites: Sequence[str], batch: TokenBatch) -> dict[str, Tensor]:
    """Run a model and return activations that gradients pass through."""
    found: dict[str, Tensor] = {}

    def keep(activation: Tensor, /, hook: HookContext) -> None:
        found[hook.name] = activation

    model.run_with_hooks(batch, fwd_hooks=[(site, keep) for site in sites], return_type=None)
    return found


def _batches(model: HookedModel, texts: Sequence[str], size: int, width: int, seed: int) -> Iterator[TokenBatch]:
    generator = torch.Generator().manual_seed(seed)
    while True:
        for rows in torch.randperm(len(texts), generator=generator).split(size):
            batch = model.tokenize([texts[i] for i in rows.tolist()], padding_side="right")
            yield TokenBatch(batch.ids[:, :width], batch.mask[:, :width], batch.answer[:, :width])
