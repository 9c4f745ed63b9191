"""What a model is taught to say instead of an answer, and which prompt gets which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from hooked import Item, UnlearnData, VestigeError
from interventions.batches import split_of
from interventions.training.train import Training

REFUSALS = (
    "I don't know.",
    "I am not sure.",
    "I have no information about that.",
    "That is unknown to me.",
    "I cannot say.",
)


def refused(data: UnlearnData, refusals: Sequence[str], *, seed: int, method: str) -> tuple[Item, ...]:
    """Return the forget prompts with a refusal for an answer, drawn once for each; documents are left out.

    Args:
        data: The task.
        refusals: At least one.
        seed: Of the draw.
        method: Who asks, for the message.

    Raises:
        VestigeError: There is no refusal, or no forget item with a prompt.
    """
    if isinstance(refusals, str) or not refusals or not all(refusal.strip() for refusal in refusals):
        raise VestigeError(f"{method} needs refusals of at least one word each, got {list(refusals)!r}")
    asked = [item for item in split_of(data, "forget", method=method) if not item.is_document]
    if not asked:
        raise VestigeError(f"{method} needs forget items with a prompt to refuse, and all are plain documents")
    draw = torch.randint(len(refusals), (len(asked),), generator=torch.Generator().manual_seed(seed)).tolist()
    return tuple(replace(item, answer=refusals[which]) for item, which in zip(asked, draw, strict=True))


def answered_and_refused(
    data: UnlearnData, refusals: Sequence[str], *, seed: int, method: str
) -> tuple[UnlearnData, tuple[Item, ...]]:
    """Return the data with only those forget items that have a prompt and an answer, and a refusal of each, in order.

    Raises:
        VestigeError: As `refused`, or no forget item has an answer.
    """
    answered = replace(data, forget=split_of(data, "forget", method=method, answered=True))
    replies = refused(answered, refusals, seed=seed, method=method)
    return replace(data, forget=tuple(item for item in answered.forget if not item.is_document)), replies


def refuse_stop(training: Training, *, method: str, taught: str) -> None:
    """Refuse a stop that would watch the wrong answers.

    Raises:
        VestigeError: There is a `stop_fraction`.
    """
    if training.get("stop_fraction") is not None:
        raise VestigeError(
            f"{method} teaches {taught}, and stop_fraction= would wait for these to become unlikely; use steps="
        )
