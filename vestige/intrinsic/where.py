"""Where a fact still is: what each cell of a model, component by layer by position, carries of the answers.

The depth score cell by cell. As there, the subject's states are patched into the original, which reads on from there
(not the subject's into a control model: one that never learnt the facts cannot read them off any states); what a cell
of the original carries is the fall that the anchor's state causes in its place, and what of this is kept is the part
that the subject's own state does not cause as well.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from hooked import VestigeError
from vestige.intrinsic.cells import COMPONENTS, CellFalls
from vestige.intrinsic.depth import TAU
from vestige.intrinsic.positions import POSITIONS
from vestige.metrics.bootstrap import mean_interval, ratio_interval

Shares = Float[np.ndarray, "n_components n_layers n_positions"]

_BLOCK, _ANSWER = COMPONENTS.index("block"), POSITIONS.index("answer")


@dataclass(frozen=True, eq=False)
class Where:
    """What each cell of a subject still carries, beyond the anchor's.

    Args:
        shares: Of what the original's strongest block output carries where the answer is predicted: 0 for the anchor,
            and 1 for the original at that block. NaN where no item has the position, or too few to tell.
        low: Lower end of the 95 % interval over items.
        high: Upper end.
        clear: Whether the subject's state keeps the answer likelier than the control's does: the 95 % interval of the
            difference of the two falls lies above 0. Of cells without a difference one in forty is called clear.
        falls: Mean fall that the subject's state causes, nats; above what the anchor's causes where it is worse than
            empty.
        counts: Number of items that have each position.
        whole: The fall that is 1, nats.
    """

    shares: Shares
    low: Shares
    high: Shares
    clear: Bool[np.ndarray, "n_components n_layers n_positions"]
    falls: Shares
    counts: Int[np.ndarray, " n_positions"]
    whole: float


def where(
    anchor: CellFalls, subject: CellFalls, *, control: CellFalls | None = None, tau: float = TAU, seed: int = 0
) -> Where | str:
    """Return the map of a subject, or why there is none.

    With D1 the fall that the anchor's state causes in a cell and D2 the subject's, an item keeps

        D1 (1 - clip(D2 / D1, 0, 1))     where D1 > `tau`, and nothing elsewhere;

    a share is its mean over items divided by the mean D1 of the block output, where the answer is predicted, at the
    block at which that mean is largest. In the column of answers the block outputs are the depth score: a subject's
    share divided by the original's is one minus the score of that block.

    Falls of single cells do not add up: what one carries, another may carry too. A fall of the anchor's is also caused
    by a state that is foreign rather than empty; the control's, from another training run, shows how much of it.

    Args:
        anchor: Falls with the states of a model that exact unlearning would give, from `Tracing.falls`.
        subject: Falls with the subject's.
        control: Falls of another model that never learnt the facts, by default the anchor.
        tau: Smallest fall that counts, nats.
        seed: Of the resampling.

    Raises:
        VestigeError: The falls are not of one shape.

    Source:
        Restoring and corrupting one state at a time: Meng et al. 2022, arXiv:2202.05262; the patching of an unlearned
        into the original model and the ratio: arXiv:2605.24614. Cells, shares of one whole and the comparison with a
        control are ours.
    """
    beside = anchor if control is None else control
    if not anchor.shape == subject.shape == beside.shape:
        raise VestigeError(f"maps need falls of one shape, got {anchor.shape}, {subject.shape} and {beside.shape}")
    carried = np.where(anchor > tau, anchor, 0.0)
    kept = carried * (1 - np.clip(np.where(carried > 0, subject, 0.0) / np.where(carried > 0, anchor, 1.0), 0.0, 1.0))
    blocks = carried[_BLOCK, :, _ANSWER]
    measured = ~np.isnan(anchor[_BLOCK, 0, _ANSWER])
    whole = blocks[int(blocks[:, measured].mean(-1).argmax())] if measured.any() else blocks[0]
    if not measured.any() or ratio_interval(whole[measured], whole[measured], seed=seed).estimate is None:
        return "the anchor's states take no clear part of the answers away, so there is nothing to share out"
    shape = anchor.shape[:-1]
    shares, low, high, mean = (np.full(shape, np.nan) for _ in range(4))
    clear = np.zeros(shape, dtype=bool)
    for cell in np.ndindex(shape):
        has = ~np.isnan(subject[cell])
        if has.sum() < 2:
            continue
        mean[cell] = subject[cell][has].mean()
        found = ratio_interval(kept[cell][has], whole[has], seed=seed)
        if found.estimate is not None and found.low is not None and found.high is not None:
            shares[cell], low[cell], high[cell] = found.estimate, found.low, found.high
            above = mean_interval((beside[cell] - subject[cell])[has], seed=seed)
            clear[cell] = found.estimate > 0 and above.low is not None and above.low > 0
    return Where(shares, low, high, clear, mean, (~np.isnan(subject[0, 0])).sum(-1), float(whole[measured].mean()))
