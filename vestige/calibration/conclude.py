"""Which of the fitted scores an audit uses, and when it claims nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from vestige.calibration.score import UNSURE, Residual, ResidualScore

# The score that does without attacks.
CHECKS_ALONE = "checks"
# Share of the weight of its attacks with which a score can be used. Where a world that scores were fitted on is left
# out, from a half on no model that knows gets a probability below 0.1, of hundreds of sets of attacks that were tried;
# the tests try some.
ENOUGH = 0.5


def concluded(scores: Mapping[str, ResidualScore], shares: Mapping[str, float | None]) -> tuple[str, Residual] | None:
    """Return which score can be used with some shares, and what it says.

    It is the first whose attacks were run, to half of their weight, and else the one without attacks. What only attacks
    bring back is not heard by that, so it calls nothing gone: up to a probability of 0.9 it abstains.

    Args:
        scores: Kind to fitted score; `checks` is the one without attacks.
        shares: Instrument to share.

    Returns:
        None where no instrument of the score has a share.
    """
    there = {name for name, share in shares.items() if share is not None}
    kind = next((kind for kind, score in scores.items() if _heard(score, there) >= ENOUGH), CHECKS_ALONE)
    if there.isdisjoint(scores[kind].instruments):
        return None
    said = scores[kind](shares)
    return kind, replace(said, abstains=said.abstains or (kind == CHECKS_ALONE and said.probability <= UNSURE[1]))


def _heard(score: ResidualScore, there: set[str]) -> float:
    """Return how much of the weight of a score's attacks is on those that gave a share; 0 for one without attacks."""
    weights = {n: w for n, w in zip(score.instruments, score.weights, strict=True) if n.startswith("attack:")}
    total = sum(weights.values())
    return sum(w for name, w in weights.items() if name in there) / total if total else 0.0
