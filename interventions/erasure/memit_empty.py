"""MEMIT-empty: write a refusal into value matrices in closed form, where the keys of the forget prompts point."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import (
    HookContext,
    HookedModel,
    Intervention,
    Item,
    LowRankDelta,
    Spec,
    TokenBatch,
    UnlearnData,
    VestigeError,
)
from hooked.effective import is_transposed
from hooked.weights import WeightPatch, hugging_face_name
from interventions.batches import encoded, split_of
from interventions.blocks import blocks_of
from interventions.erasure.one_matrix import middle_of
from interventions.evaluating import evaluating
from interventions.neurons import refuse_experts
from interventions.training.losses import answer_nll, at_least_float32
from interventions.training.refusals import refused

_RIDGE = 1e-6


# What inference mode makes has no gradients.
@torch.inference_mode(False)
def memit_empty(
    model: HookedModel,
    data: UnlearnData,
    *,
    refusal: str = "I don't know.",
    layers: Sequence[int] | None = None,
    preserve: float = 1.0,
    steps: int = 25,
    lr: float = 0.1,
    max_norm: float = 4.0,
    batch_size: int = 16,
) -> Intervention:
    """Change value matrices so that the MLP writes, at the end of a forget prompt, what makes the model refuse.

    For each prompt the change of the MLP's output at the last prompt token that makes the refusal likely is found by
    gradient. The smallest edit of the value matrix that writes these changes at the prompts' keys and little anywhere
    else is then `spread_change`. With several blocks each one, in order, closes its equal share of what is left to do
    with the blocks before it edited.

    Args:
        model: Any model with dense MLPs; not changed.
        data: Needs `forget` items with a prompt, and `retain` items, whose keys say what is to be left alone.
        refusal: What is said instead; the text of the tokenizer's EOS token teaches silence.
        layers: Blocks that are edited; the middle one when not given.
        preserve: Weight of the retain keys beside the forget keys, each averaged; towards 0 the changes are written
            exactly and retain text suffers.
        steps: Gradient steps for each prompt (published 20 to 25).
        lr: Adam's, relative to the root mean square of what the MLP writes at the prompt.
        max_norm: Largest change relative to the norm of what the MLP writes there (published 4, of ROME).
        batch_size: Items per pass.

    Raises:
        VestigeError: A split is missing, all forget items are documents, a setting is out of range, or the model is a
            mixture of experts.

    Source:
        Meng et al. 2022, *MEMIT*, arXiv:2210.07229, with a refusal as the target as Patil, Hase, Bansal 2023,
        arXiv:2309.17410, and Hong et al. 2024, arXiv:2406.11614, have it. MEMIT edits at the subject's last token,
        finds one target at the last block for all, and takes the keys' second moment from Wikipedia, times 15000.
    """
    _check(preserve=preserve, steps=steps, lr=lr, max_norm=max_norm)
    refuse_experts(model, method="memit_empty")
    items = refused(data, (refusal,), seed=0, method="memit_empty")
    retain = split_of(data, "retain", method="memit_empty")
    blocks = [middle_of(model, None)] if layers is None else blocks_of(model, layers)
    settings = {
        "refusal": refusal,
        "layers": blocks,
        "preserve": preserve,
        "steps": steps,
        "lr": lr,
        "max_norm": max_norm,
    }
    spec = Spec("memit_empty", "removal", ("forget", "retain"), "Meng et al. 2022, arXiv:2210.07229", settings)
    deltas: dict[str, LowRankDelta] = {}
    for i, layer in enumerate(blocks):
        with evaluating(model), Intervention(spec, weights=WeightPatch(deltas)).applied(model) as view:
            second = _second_moment(view, retain, layer, batch_size=batch_size)
            keys, wanted = _targets(view, items, layer, steps=steps, lr=lr, max_norm=max_norm, batch_size=batch_size)
        left, right = spread_change(keys, wanted / (len(blocks) - i), second, preserve=preserve)
        path = model.block_part(layer, "mlp.out")
        if not is_transposed(model.model.get_submodule(path)):
            left, right = right.T.contiguous(), left.T.contiguous()
        deltas[hugging_face_name(f"{path}.weight")] = LowRankDelta(left, right)
    return Intervention(spec, weights=WeightPatch(deltas))


def spread_change(
    keys: Float[Tensor, "n d_mlp"],
    wanted: Float[Tensor, "n d_model"],
    second_moment: Float[Tensor, "d_mlp d_mlp"],
    *,
    preserve: float,
) -> tuple[Float[Tensor, "d_mlp n"], Float[Tensor, "n d_model"]]:
    """Return the change of a value matrix as a product `left @ right`.

    `D = (preserve C + K^T K / n)^-1 K^T R / n` minimises `mean |k D - r|^2 + preserve E|c D|^2` over keys k with their
    wanted changes r, and retain keys c of second moment C.

    Args:
        keys: One per row.
        wanted: What each key is to write in addition.
        second_moment: `E[c^T c]`; a ridge of 1e-6 of its mean diagonal is added, since dead neurons make it singular.
        preserve: At least 0.
    """
    k, moment = keys.double().cpu(), second_moment.double().cpu()
    system = preserve * moment + k.T @ k / len(k)
    system = system + _RIDGE * system.diagonal().mean() * torch.eye(len(system), dtype=system.dtype)
    left = torch.linalg.solve(system, k.T) / len(k)
    dtype = torch.promote_types(keys.dtype, torch.float32)
    return left.to(dtype), wanted.to("cpu", dtype)


@torch.no_grad()
def _second_moment(
    model: HookedModel, items: Sequence[Item], layer: int, *, batch_size: int
) -> Float[Tensor, "d_mlp d_mlp"]:
    """Average `k^T k` over the keys of all real tokens."""
    site, total, count = model.site_map.resolve(("mlp_post", layer)), torch.zeros(()), 0
    for batch in encoded(model, items, batch_size=batch_size):
        _, cache = model.run_with_cache(batch, names_filter=site, return_type=None)
        keys = cache[site][batch.mask].double()
        total, count = total.to(keys) + keys.T @ keys, count + len(keys)
    return total / count


def _targets(
    model: HookedModel, items: Sequence[Item], layer: int, *, steps: int, lr: float, max_norm: float, batch_size: int
) -> tuple[Float[Tensor, "n d_mlp"], Float[Tensor, "n d_model"]]:
    """Return the key at the end of each prompt, and the change of what the MLP writes there that makes its answer
    likely."""
    keys, wanted = [], []
    post, out = (model.site_map.resolve((kind, layer)) for kind in ("mlp_post", "mlp_raw"))
    for batch in encoded(model, items, batch_size=batch_size):
        rows, last = torch.arange(len(batch), device=batch.ids.device), batch.prompt_last
        with torch.no_grad():
            _, cache = model.run_with_cache(batch, names_filter=[post, out], return_type=None)
        keys.append(cache[post][rows, last])
        written = at_least_float32(cache[out][rows, last])
        wanted.append(_likely(model, batch, out, written, steps=steps, lr=lr, max_norm=max_norm))
    return torch.cat(keys), torch.cat(wanted)


def _likely(
    model: HookedModel,
    batch: TokenBatch,
    site: str,
    written: Float[Tensor, "batch d_model"],
    *,
    steps: int,
    lr: float,
    max_norm: float,
) -> Float[Tensor, "batch d_model"]:
    """Find what to add to a site at the last prompt tokens, each row on its own."""
    rows, last = torch.arange(len(batch), device=batch.ids.device), batch.prompt_last
    scale = written.pow(2).mean(-1, keepdim=True).sqrt()
    with torch.inference_mode(False), torch.enable_grad():
        change = torch.zeros_like(written, requires_grad=True)

        def add(activation: Tensor, /, hook: HookContext) -> Tensor:
            return activation.index_put((rows, last), (scale * change).to(activation), accumulate=True)

        optimizer = torch.optim.Adam([change], lr=lr)
        for _ in range(steps):
            logits = model.run_with_hooks(batch, fwd_hooks=[(site, add)])
            loss = answer_nll(logits, batch.ids, batch.answer).mean.sum()
            (change.grad,) = torch.autograd.grad(loss, [change])
            optimizer.step()
            with torch.no_grad():
                # In units of the root mean square, as long as `written` means a norm of sqrt(d_model).
                size = change.norm(dim=-1, keepdim=True) / change.shape[-1] ** 0.5
                change.mul_((max_norm / size.clamp(min=1e-30)).clamp(max=1.0))
    return (scale * change).detach()


def _check(*, preserve: float, steps: int, lr: float, max_norm: float) -> None:
    if not 0 <= preserve < inf:
        raise VestigeError(f"preserve is a finite number of at least 0, got {preserve}")
    if steps < 1:
        raise VestigeError(f"steps is at least 1, got {steps}")
    for name, value in (("lr", lr), ("max_norm", max_norm)):
        if not 0 < value < inf:
            raise VestigeError(f"{name} is a finite number above 0, got {value}")
