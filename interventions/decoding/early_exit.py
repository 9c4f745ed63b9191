"""Reading the stream of a block on its way through the model, to decode it before the last block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor

from hooked import Edit, HookContext, HookedModel, VestigeError
from hooked.sites import SiteLike


@dataclass(frozen=True)
class NoteStream:
    """Edit of `blocks.{layer}.hook_resid_post` that changes nothing: it leaves the stream where a combiner finds it.

    The stream is noted as every edit there has left it, also those of interventions that are applied later.
    """

    layer: int
    notes: ClassVar[bool] = True

    def __call__(self, activation: Float[Tensor, "batch pos d_model"], /, hook: HookContext) -> None:
        if hook.request is None:
            raise VestigeError("an early exit belongs to a request; run it through Intervention.applied")
        # Two interventions that note one block see the same stream, so the later note may replace the earlier.
        hook.request.state[self] = activation


def notes(layers: Sequence[int]) -> dict[SiteLike, Edit]:
    """Return the edits that note the streams of some blocks."""
    return {f"blocks.{layer}.hook_resid_post": NoteStream(layer) for layer in dict.fromkeys(layers)}


def early_layers(model: HookedModel, layers: Sequence[int] | None, *, method: str) -> tuple[int, ...]:
    """Return the blocks to exit after, counted from 0.

    Args:
        model: The model.
        layers: Blocks before the last; negative ones count from the end. When None, every second block of the upper
            half, as DoLa has it for short answers.
        method: Who asks, for the message.

    Raises:
        VestigeError: None is left, one does not exist, or one is the last block, whose exit is the model's own output.
    """
    last = model.n_layers - 1
    chosen = list(range(model.n_layers // 2, last, 2)) or list(range(last)) if layers is None else list(layers)
    if not chosen:
        raise VestigeError(f"{method} needs at least one block before the last of {last + 1} to exit after, got none")
    for layer in chosen:
        if not -model.n_layers <= layer <= last:
            raise VestigeError(f"{method} exits after blocks 0 to {last - 1}, got {layer}")
        if layer % model.n_layers == last:
            raise VestigeError(
                f"{method} exits before the last block, and {layer} is the last: its exit is the output itself"
            )
    return tuple(dict.fromkeys(layer % model.n_layers for layer in chosen))
