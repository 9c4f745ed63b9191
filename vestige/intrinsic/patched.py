"""What the states of one subject do in the original: read while the subject is open, patched when it is closed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from hooked import Decoder, HookedModel
from vestige.intrinsic.depth import Falls
from vestige.intrinsic.lens_depth import lens_log_probs
from vestige.intrinsic.patching import patched_log_probs, plain_log_probs
from vestige.intrinsic.spans import Spans
from vestige.intrinsic.states import States, read_states
from vestige.subjects import Subject


@dataclass(frozen=True)
class Patched:
    """What the states of one subject do to the original's log-probability of the asked tokens: falls in nats, positive
    where the original finds the answer less likely with them.

    Args:
        view: With the states of the deployed system.
        raw: With those of its bare weights.
        lens: In the lens of each block: the original's states less those of the deployed system.
    """

    view: Falls
    raw: Falls
    lens: Falls


@dataclass(frozen=True, eq=False)
class SubjectStates:
    """States of one subject, read while it was open.

    Args:
        view: Of the deployed system.
        raw: Of its bare weights; the same tensor where they are the same.
    """

    view: States
    raw: States


class Patching:
    """The original, into which the states of one subject after the other are patched.

    Weight edits act on the original itself while a subject is open, so its states are read then (`read`), and patched
    when it is closed (`patched`). Few numbers remain of each: states exist at the places alone, of one subject at a
    time.

    Args:
        original: The model before unlearning.
        spans: Where its answers are predicted.
        decoder: The original's, frozen.
        batch_size: Texts per forward pass.
    """

    def __init__(self, original: HookedModel, spans: Spans, *, decoder: Decoder, batch_size: int = 32) -> None:
        self._original, self._spans, self._batch_size = original, spans, batch_size
        self._decoder = decoder
        self._unpatched: tuple[Float[np.ndarray, " n_items"], Falls] | None = None

    def read(self, subject: Subject) -> SubjectStates | None:
        """Return the states of an open subject; None where it has another number of blocks than the original.

        Raises:
            VestigeError: No item has a place, or the states are not finite.
        """
        if subject.model.n_layers != self._original.n_layers:
            return None
        view = read_states(subject.model, self._spans, batch_size=self._batch_size)
        if subject.raw is subject.model:
            return SubjectStates(view, view)
        raw = read_states(subject.raw, self._spans, batch_size=self._batch_size)
        return SubjectStates(view, view if torch.equal(view, raw) else raw)

    def patched(self, states: SubjectStates) -> Patched:
        """Patch states into the original, on which nothing may be in force."""
        if self._unpatched is None:
            self._unpatched = (
                plain_log_probs(self._original, self._spans, batch_size=self._batch_size),
                self._lens(read_states(self._original, self._spans, batch_size=self._batch_size)),
            )
        plain, lens = self._unpatched
        view = plain - self._log_probs(states.view)
        raw = view if states.raw is states.view else plain - self._log_probs(states.raw)
        return Patched(view, raw, lens - self._lens(states.view))

    def _log_probs(self, states: States) -> Falls:
        return patched_log_probs(self._original, self._spans, states, batch_size=self._batch_size)

    def _lens(self, states: States) -> Falls:
        return lens_log_probs(self._decoder, self._spans, states)
