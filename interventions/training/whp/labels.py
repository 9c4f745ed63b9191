"""What somebody who never read a text would say at each of its positions."""

from __future__ import annotations

from math import inf

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked import VestigeError
from interventions.training.losses import at_least_float32
from interventions.training.whp.translate import Translation

IGNORED = -100


def generic_logits(
    baseline: Float[Tensor, "*batch d_vocab"], reinforced: Float[Tensor, "*batch d_vocab"], *, alpha: float = 5.0
) -> Float[Tensor, "*batch d_vocab"]:
    """Return `b - alpha relu(r - b)`: tokens that a model says more after more of the text are said less.

    Args:
        baseline: Logits of the original, on general text.
        reinforced: Logits of a model that was trained further on the particular text.
        alpha: At least 0; 5 published for labels.

    Raises:
        VestigeError: `alpha` is negative or not finite.

    Source:
        Eldan, Russinovich 2023, arXiv:2310.02238.
    """
    if not 0 <= alpha < inf:
        raise VestigeError(f"alpha is a finite number of at least 0, got {alpha}")
    return baseline - alpha * F.relu(reinforced - baseline)


def consistent(logits: Float[Tensor, "pos d_vocab"], translation: Translation) -> Float[Tensor, "pos d_vocab"]:
    """Give the first token of each replacement the mean logit of its position, from where it was introduced on.

    Otherwise the labels would name the replacement where the text goes on naming the anchor.
    """
    changed = logits.clone()
    mean = logits.mean(-1)
    for start, token in translation.introduced:
        changed[start:, token] = mean[start:]
    return changed


def generic_labels(
    baseline: Float[Tensor, "new_pos d_vocab"],
    reinforced: Float[Tensor, "pos d_vocab"],
    translation: Translation,
    answer: Bool[Tensor, " pos"],
    *,
    alpha: float = 5.0,
) -> Int[Tensor, " pos"]:
    """Return for each position the token to say after it, `IGNORED` where there is nothing to learn.

    A position counts if the next token is part of the answer (in a document every token is) and does not begin an
    anchor again, and if it is not inside an anchor itself. Labels sit where their logits do: nothing shifts them again.

    Args:
        baseline: Logits of the original on the translated row; positions cut off at its end count as inside an anchor.
        reinforced: Logits of the reinforced model on the row itself.
        translation: Of the row.
        answer: True on answer tokens of the row.
        alpha: As in `generic_logits`.
    """
    again = torch.tensor(translation.repeated, device=answer.device)
    wanted = (answer & ~again)[1:].tolist()
    pairs = [
        (here, there)
        for here, (there, asked) in enumerate(zip(translation.position[:-1], wanted, strict=True))
        if asked and there is not None and there < len(baseline)
    ]
    labels = torch.full(answer.shape, IGNORED, dtype=torch.long)
    if pairs:
        here, there = (list(side) for side in zip(*pairs, strict=True))
        general = consistent(at_least_float32(baseline), translation)[there]
        mixed = generic_logits(general, at_least_float32(reinforced)[here].to(general.device), alpha=alpha)
        labels[here] = mixed.argmax(-1).cpu()
    return labels


def label_loss(logits: Float[Tensor, "batch pos d_vocab"], labels: Int[Tensor, "batch pos"]) -> Float[Tensor, ""]:
    """Return the mean cross-entropy at labelled positions, 0 where there is none, in nats.

    Args:
        logits: Of the model in training; those at t are compared with the label at t.
        labels: Token ids or `IGNORED`.
    """
    kept = labels != IGNORED
    chosen = at_least_float32(logits[kept])
    return F.cross_entropy(chosen, labels[kept], reduction="sum") / max(int(kept.sum()), 1)
