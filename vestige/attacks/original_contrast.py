"""Contrast with the original: what has been withdrawn betrays what was to be forgotten."""

from __future__ import annotations

import numpy as np
import torch

from hooked import HookedModel, UnlearnData, VestigeError
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.next_token import next_token_log_probs

# Of all probability. What is less than rounding and batching leave between two passes of one model tells nothing.
LEAST = 1e-3


def original_contrast(target: Target, data: UnlearnData, *, batch_size: int = 32, seed: int = 0) -> Attacked:
    """Score which share of the probability that the subject has withdrawn was the answer's first token's.

    With p the original's probabilities after the prompt (`Notes.log_probs`) and q the subject's, it is
    `max(0, p(y) - q(y)) / sum_v max(0, p(v) - q(v))`, and 0 where hardly anything was withdrawn. Who has both releases
    sees it. It needs the original, which also knows the answer: it shows what was taken away, not what is left, and
    the original itself scores 0, so that its recovery gap says nothing.

    Args:
        target: The subject, with its notes of the original.
        data: Its forget items are asked; those of the notes.
        batch_size: Rows per forward pass.
        seed: Nothing is drawn here.

    Raises:
        VestigeError: The notes are of other items or of another vocabulary, or an item has no answer.

    Source:
        After Chen et al. 2021, arXiv:2005.02205 (two versions of a model betray what was deleted between them); the
        measure is ours.
    """
    original = target.notes.log_probs
    if original.shape != (len(data.forget), target.view.d_vocab):
        raise VestigeError(
            f"the notes of the original have log-probabilities {list(original.shape)}, needed "
            f"{[len(data.forget), target.view.d_vocab]}; write them with notes_of(original, data) from the same data"
        )
    answers = _first_tokens(target.view, data)
    scores: list[float] = []
    prompts = [item.prompt for item in data.forget]
    for rows, log_probs in next_token_log_probs(target.view, prompts, batch_size=batch_size):
        before = torch.from_numpy(original[rows].astype(np.float64)).exp()
        withdrawn = (before - log_probs.exp()).clamp(min=0)
        share = withdrawn.gather(-1, answers[rows, None])[:, 0] / withdrawn.sum(-1)
        scores += torch.where(withdrawn.sum(-1) > LEAST, share, 0.0).tolist()
    note = "share of the withdrawn probability that was the first token's of the answer; the original scores 0"
    return Attacked(tuple(scores), "choice", budget={"queries": len(scores)}, note=note)


def _first_tokens(model: HookedModel, data: UnlearnData) -> torch.Tensor:
    bare = next((n for n, item in enumerate(data.forget) if item.generation_only), None)
    if bare is not None:
        raise VestigeError(f"forget[{bare}] has no answer, so it has no first token")
    batch = model.tokenize([item.prompt for item in data.forget], answers=[item.answer for item in data.forget])
    return batch.ids.gather(-1, batch.answer.long().argmax(-1, keepdim=True))[:, 0].cpu()
