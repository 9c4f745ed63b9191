"""The Unlearning Depth Score: how much of what a model's states carried is gone from the unlearned one's, block by
block.

States of a source are written into the original, which reads on from there. Where a retrained model's states lower the
answer's log-probability, that block carried the fact; the score is the share of this fall that the unlearned model's
states cause as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from vestige.metrics._checks import check_same_length, numbers

TAU = 0.05

Falls = Float[np.ndarray, "n_layers n_items"]


@dataclass(frozen=True)
class Depth:
    """How deep a fact is erased: 0 nothing of it, 1 down to the retrained model.

    Args:
        scores: One per item; NaN where no block carried the fact, so that there was nothing to erase.
        layers: The same per block, over all items whose fact it carried; NaN where there are none.
    """

    scores: Float[np.ndarray, " n_items"]
    layers: Float[np.ndarray, " n_layers"]

    @property
    def measured(self) -> Float[np.ndarray, " n_measured"]:
        """The scores that exist."""
        found: Float[np.ndarray, " n_measured"] = self.scores[~np.isnan(self.scores)]
        return found

    @property
    def estimate(self) -> float | None:
        """Mean over the items that have a score, None where none has."""
        return float(self.measured.mean()) if len(self.measured) else None

    @property
    def skipped(self) -> int:
        """Number of items without a score."""
        return len(self.scores) - len(self.measured)


def depth(retrained: npt.ArrayLike, unlearned: npt.ArrayLike, *, tau: float = TAU, epsilon: float = 0.0) -> Depth:
    """Return the depth score of falls in log-probability.

    Block l carries an item's fact where D1 = `retrained[l]` is above `tau`; the item's score is

        sum over these of D1 clip(D2 / D1, 0, 1) / sum over these of D1,     D2 = `unlearned[l]`.

    higher_is: forgotten. Range [0, 1]. Floor: 0 for the original's own states, 1 for the retrained model's. A fall
    below 0 (patching helped) is no evidence of knowledge and is left out by `tau`, not clipped into it.

    Args:
        retrained: Falls with the retrained model's states, nats `[n_layers, n_items]`; NaN columns have no score.
        unlearned: Falls with the unlearned model's.
        tau: Smallest fall that counts, nats.
        epsilon: Added to the denominator of the ratio.

    Raises:
        VestigeError: The falls of the two are not of one shape.

    Source:
        *Measuring the Depth of LLM Unlearning via Activation Patching*, arXiv:2605.24614. There the last block's state
        may come from an output that is normed already and is normed again; here every state is patched as it is.
    """
    d1, d2 = _falls(retrained, "retrained"), _falls(unlearned, "unlearned")
    check_same_length(retrained=d1, unlearned=d2)
    check_same_length(retrained=d1.T, unlearned=d2.T)
    carried = d1 > tau
    weight = np.where(carried, d1, 0.0)
    erased = weight * np.clip(np.where(carried, d2, 0.0) / np.where(carried, d1 + epsilon, 1.0), 0.0, 1.0)
    return Depth(_share(erased, weight, 0), _share(erased, weight, 1))


def _falls(values: npt.ArrayLike, name: str) -> Falls:
    array = np.asarray(values, dtype=np.float64)
    # An item without a place is NaN at every block; a NaN anywhere else is a mistake.
    whole = array if array.ndim != 2 else np.where(np.isnan(array).all(0), 0.0, array)
    numbers(whole, name, ndim=2)
    return array


def _share(part: Falls, whole: Falls, axis: int) -> Float[np.ndarray, " n"]:
    total = whole.sum(axis)
    shares: Float[np.ndarray, " n"] = np.divide(
        part.sum(axis), total, out=np.full(total.shape, np.nan), where=total > 0
    )
    return shares
