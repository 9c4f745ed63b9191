"""Running another model beside the one that is combined, on the same tokens and with a KV cache of its own."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from hooked import HookedModel, Request, TokenBatch
from hooked.forward import Chunk, run
from interventions.decoding.assistant import Assistant, Companion
from interventions.decoding.early_exit import notes


class Beside:
    """Another model, fed with the target's tokens chunk by chunk."""

    def __init__(self, described: Companion, target: HookedModel) -> None:
        self.model = described.build(target)
        self.before = described.before if isinstance(described, Assistant) else ()
        self.bos = described.bos if isinstance(described, Assistant) else None

    def run(self, request: Request, layers: tuple[int, ...]) -> tuple[Tensor, Request]:
        """Return its logits for the current chunk, and its own request, with the streams that were noted."""
        kept: _Kept = request.state.setdefault(self, _Kept())
        batch, step = self._batch(request)
        history = batch.mask if kept.history is None else torch.cat([kept.history, batch.mask], 1)
        offset = 0 if kept.history is None else kept.history.shape[1]
        own = Request(
            batch.mask, batch.prompt, step, offset, batch.ids, kept.state, kept.decided, cached=request.cached
        )
        padded = kept.past is not None and not bool(history.all())
        chunk = Chunk(batch, own, kept.past, history if padded else None, request.cached)
        output = run(self.model, chunk, fwd_hooks=list(notes(layers).items()))
        if request.cached:
            kept.past, kept.history = output.native.past_key_values, history
        return self.model._logits(output)[:, -request.ids.shape[1] :], own

    def _batch(self, request: Request) -> tuple[TokenBatch, Tensor]:
        """Return the chunk's tokens and its decoding steps, in the first chunk with the instruction before each text.

        Column c becomes column c + length of the instruction, and padding on the left stays on the left.
        """
        batch = TokenBatch(request.ids, request.mask, request.mask & ~request.prompt).to(self.model.device)
        step = request.step.to(self.model.device)
        if not self.before or request.offset > 0:
            return batch, step
        before = torch.tensor(self.before, device=batch.ids.device).expand(len(batch), -1)
        start = batch.first[:, None]
        if self.bos is not None:
            # The last token of the instruction takes the place of the text's own BOS.
            start = start + (batch.ids.gather(1, start) == self.bos)
        columns = start + torch.arange(before.shape[1], device=start.device)
        told = TokenBatch(
            _shifted(batch.ids, before).scatter(1, columns, before),
            _shifted(batch.mask, before).scatter(1, columns, value=True),
            _shifted(batch.answer, before).scatter(1, columns, value=False),
        )
        return told, _shifted(step, before)


def _shifted(values: Tensor, before: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(before, dtype=values.dtype), values], 1)


@dataclass
class _Kept:
    """What one model carries from chunk to chunk of one request: its KV cache and which positions in it are real."""

    past: Any = None
    history: Tensor | None = None
    state: dict[Any, Any] = field(default_factory=dict)
    decided: dict[Any, Any] = field(default_factory=dict)
