"""The one forward pass behind every reading method: edits attached, activations recorded, stopped early where asked."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from hooked.capture import Recorder, reached, select_sites, silence
from hooked.errors import VestigeError
from hooked.hooks import Attachment, Edit, HookContext, Request, StopForward, attached, only_notes
from hooked.sites import SiteLike
from hooked.tokens import TokenBatch

if TYPE_CHECKING:
    from hooked.model import HookedModel

ReturnType = Literal["logits", "loss", "both"] | None
FwdHooks = Sequence[tuple[SiteLike | Callable[[str], bool], Edit]]


@dataclass(frozen=True)
class Chunk:
    """Tokens to run, with what came before them.

    Args:
        batch: The tokens.
        request: What edits see of the call.
        past: KV cache of earlier chunks.
        history: Real-token mask of cached and current positions together, where there is a cache and padding.
        use_cache: Whether a KV cache is to be returned.
    """

    batch: TokenBatch
    request: Request
    past: Any = None
    history: Tensor | None = None
    use_cache: bool = False


@dataclass
class Output:
    """What came out of one pass: the native output, or the residual stream where the pass was stopped."""

    request: Request
    native: Any = None
    residual: Tensor | None = field(default=None)


def first_chunk(batch: TokenBatch, *, use_cache: bool = False) -> Chunk:
    """Return the chunk of a call that has no past."""
    columns = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    step = (columns >= batch.prompt_last[:, None]) & batch.mask
    request = Request(batch.mask, batch.prompt, step, 0, batch.ids, cached=use_cache)
    return Chunk(batch, request, use_cache=use_cache)


def run(
    model: HookedModel,
    chunk: Chunk,
    *,
    fwd_hooks: FwdHooks = (),
    recorder: Recorder | None = None,
    stop_at_layer: int | None = None,
) -> Output:
    """Run one chunk with everything attached: the view's edits, the caller's, what notes, then the recorder.

    Raises:
        VestigeError: A site does not exist, is not reached, never fires, or an edit misbehaves; ids or positions lie
            outside the model's tables.
    """
    sites, request = model.site_map, chunk.request
    # A view's edits after the stop have no effect on what is read; a caller's are a mistake, which `plan` refuses.
    always = [(s, f) for s, f in model._interventions(request) if reached(sites.resolve(s), stop_at_layer)]
    ordered = sorted([*always, *fwd_hooks], key=lambda pair: only_notes(pair[1]))
    edits = plan(model, ordered, request=request, stop_at_layer=stop_at_layer)

    def context(name: str) -> HookContext:
        made = HookContext(name)
        made.request = request
        return made

    output, everything = Output(request), list(edits)
    if recorder is not None:
        everything += recorder.attachments(sites, context)
    if stop_at_layer is not None:
        everything.append(_stopper(model, stop_at_layer, context, output))
    with ExitStack() as stack:
        stack.enter_context(attached(model._geometry.root, everything))
        stack.enter_context(model._standing.serving(request))
        try:
            output.native = model.model(**_arguments(model, chunk))
        except StopForward:
            if stop_at_layer is None:
                return output
        except IndexError as error:
            explained = _outside_tables(model, chunk)
            if explained is None:
                raise
            raise explained from error
    silent = next((a.context.name for a in edits if not a.context.fired), None)
    if silent is not None:
        raise VestigeError(silence(silent))
    return output


def plan(
    model: HookedModel, fwd_hooks: FwdHooks, *, request: Request | None, stop_at_layer: int | None
) -> list[Attachment]:
    """Turn pairs of site (or predicate) and function into attachments, in the order given."""
    found: list[Attachment] = []
    contexts: dict[str, HookContext] = {}
    for address, function in fwd_hooks:
        wanted = address if callable(address) else [address]
        for name in select_sites(model.site_map, wanted, stop_at_layer=stop_at_layer):
            context = contexts.setdefault(model.site_map.editable(name), HookContext(name))
            context.request = request
            found.append(Attachment(model.site_map.tap(name), context, function))
    return found


def stop_layer(model: HookedModel, stop_at_layer: int | None) -> int | None:
    """Return the block before which a pass stops, counted from 0."""
    if stop_at_layer is None:
        return None
    stop = stop_at_layer + model.n_layers if stop_at_layer < 0 else stop_at_layer
    if not 0 <= stop <= model.n_layers:
        raise VestigeError(
            f"stop_at_layer is 0 to {model.n_layers} in a {model.n_layers}-layer model, got {stop_at_layer}"
        )
    return stop


def returned(logits: Tensor, batch: TokenBatch, return_type: ReturnType) -> Any:
    """Return what a caller asked for; the loss is the mean in nats over real tokens that follow a real token."""
    if return_type == "logits":
        return logits
    if return_type is None:
        return None
    if return_type not in ("loss", "both"):
        raise VestigeError(f"return_type is 'logits', 'loss', 'both' or None, got {return_type!r}")
    real = (batch.mask[:, 1:] & batch.mask[:, :-1]).flatten()
    if not bool(real.any()):
        raise VestigeError("a loss needs a text of at least two tokens")
    targets = batch.ids[:, 1:].flatten().to(logits.device)
    losses = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), targets, reduction="none")
    loss = losses[real.to(losses.device)].mean()
    return loss if return_type == "loss" else (logits, loss)


def _stopper(model: HookedModel, stop: int, context: Callable[[str], HookContext], output: Output) -> Attachment:
    name = f"blocks.{stop}.hook_resid_pre" if stop < model.n_layers else f"blocks.{stop - 1}.hook_resid_post"

    def end(activation: Tensor, hook: HookContext) -> None:
        output.residual = activation.clone()
        raise StopForward

    return Attachment(model.site_map.tap(name), context(name), end, writes=False)


def _arguments(model: HookedModel, chunk: Chunk) -> dict[str, Any]:
    batch, past = chunk.batch, chunk.past
    arguments: dict[str, Any] = {"input_ids": batch.ids, "use_cache": chunk.use_cache}
    if past is not None:
        arguments["past_key_values"] = past
    mask = batch.mask if chunk.history is None else chunk.history
    # Without padding the native call is left exactly as a user would write it.
    if batch.padded or chunk.history is not None:
        arguments["attention_mask"] = mask.long()
        if model._geometry.takes_position_ids:
            positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
            arguments["position_ids"] = positions[:, -batch.ids.shape[1] :]
    return arguments


def _outside_tables(model: HookedModel, chunk: Chunk) -> VestigeError | None:
    """Explain a failed look-up: an id without an embedding, or more positions than the model has."""
    ids = chunk.batch.ids
    wrong = ids[(ids < 0) | (ids >= model.d_vocab)]
    if wrong.numel():
        return VestigeError(f"token id {int(wrong[0])} has no embedding: the model has ids 0 to {model.d_vocab - 1}")
    limit, length = getattr(model.config, "max_position_embeddings", None), chunk.request.offset + ids.shape[1]
    if limit is not None and length > limit:
        return VestigeError(
            f"{length} positions were asked for, the model has {limit}; shorten the text or the generation"
        )
    return None
