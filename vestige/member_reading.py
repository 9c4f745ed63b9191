"""Reading a subject for membership inference: the log-probabilities of answers, and what was expected at each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Item, UnlearnData, VestigeError
from interventions.batches import encoded
from vestige.metrics.membership import loss_score, min_k_plus_plus_score, min_k_score, zlib_score
from vestige.metrics.privacy_intervals import MemberScores


@dataclass(frozen=True)
class TextReading:
    """How a model scored one answer.

    Args:
        log_probs: Log-probability of each answer token, nats.
        means: Mean log-probability of the whole vocabulary at each place, under the model's own distribution.
        variances: Its variance.
        text: The answer.
    """

    log_probs: tuple[float, ...]
    means: tuple[float, ...]
    variances: tuple[float, ...]
    text: str


@dataclass(frozen=True)
class MemberReading:
    """How a subject scored what it was made to forget, and items of the same kind that no subject was trained on."""

    forget: tuple[TextReading, ...]
    holdout: tuple[TextReading, ...]

    def scores(self, *, k: float = 0.4) -> dict[str, MemberScores]:
        """Return the four scores of the unlearning literature by name: `loss`, `zlib`, `min_k`, `min_k_plus_plus`.

        Args:
            k: Share of the tokens that the last two look at.
        """
        rows = [_scores(text, k) for text in self.forget]
        others = [_scores(text, k) for text in self.holdout]
        return {name: MemberScores(tuple(r[name] for r in rows), tuple(r[name] for r in others)) for name in rows[0]}


def _scores(text: TextReading, k: float) -> dict[str, float]:
    return {
        "loss": loss_score(text.log_probs),
        "zlib": zlib_score(text.log_probs, text.text),
        "min_k": min_k_score(text.log_probs, k=k),
        "min_k_plus_plus": min_k_plus_plus_score(text.log_probs, text.means, text.variances, k=k),
    }


def read_members(model: HookedModel, data: UnlearnData, *, batch_size: int = 32) -> MemberReading | None:
    """Score the forget and the holdout answers; None where the data has no holdout items.

    Args:
        model: A model or a view.
        data: Items without an answer are left out.
        batch_size: Rows per forward pass.

    Raises:
        VestigeError: Every item of a split lacks an answer.
    """
    if not data.holdout:
        return None
    return MemberReading(
        *(read_texts(model, items, batch_size=batch_size) for items in (data.forget, data.holdout)),
    )


@torch.no_grad()
def read_texts(model: HookedModel, items: Sequence[Item], *, batch_size: int = 32) -> tuple[TextReading, ...]:
    """Score the answers of some items after their prompts (teacher forcing), leaving out items without one.

    Raises:
        VestigeError: No item has an answer.
    """
    scored = [item for item in items if not item.generation_only]
    if not scored:
        raise VestigeError(f"membership needs items with an answer, and none of {len(items)} has one")
    found = []
    for start, batch in enumerate(encoded(model, scored, batch_size=batch_size)):
        logits = model.logits(batch)
        for row, item in enumerate(scored[start * batch_size : (start + 1) * batch_size]):
            places = batch.answer[row].nonzero()[:, 0]
            found.append(_read(logits[row, places - 1], batch.ids[row, places].to(logits.device), item.answer))
    return tuple(found)


def _read(logits: Float[Tensor, "tokens d_vocab"], ids: Tensor, text: str) -> TextReading:
    log_p = logits.double().log_softmax(-1)
    p = log_p.exp()
    finite = torch.where(p > 0, log_p, 0.0)
    means = (p * finite).sum(-1)
    variances = (p * (finite - means[:, None]).square()).sum(-1)
    picked = log_p.gather(-1, ids[:, None])[:, 0]
    return TextReading(tuple(picked.tolist()), tuple(means.tolist()), tuple(variances.tolist()), text)
