"""Do items of one kind lie together? Nearest neighbours vote on the label of rows whose group they do not belong to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

from hooked import VestigeError
from probes.samples import Groups, Labels, check_samples, shuffled_labels


@dataclass(frozen=True)
class Neighbours:
    """What the neighbours of each row said.

    Args:
        right: Whether they named the row's label, one per row.
        majority: Share of the most frequent label.
        shuffled: Mean share of right votes when the labels are shuffled over groups.
        shuffled_high: Its 95th percentile.
    """

    right: Bool[np.ndarray, " n"]
    majority: float
    shuffled: float
    shuffled_high: float

    @property
    def accuracy(self) -> float:
        """Share of rows whose neighbours named their label."""
        return float(self.right.mean())


def nearest_neighbours(
    acts: Float[Tensor, "n d_model"], labels: Labels, *, groups: Groups, k: int = 5, draws: int = 20, seed: int = 0
) -> Neighbours:
    """Let the k nearest rows of other groups vote on every row's label.

    Nearness is the cosine after the mean of all rows is taken off: residual streams share a large mean, beside which
    every two rows look alike. Of labels with equally many votes the nearer one wins.

    Args:
        acts: One row per observation.
        labels: Two or more classes.
        groups: Rows that may not vote for each other: item or entity, never a token.
        k: Voters per row.
        draws: Shuffles of the labels.
        seed: Of the shuffles.

    Raises:
        VestigeError: Labels or groups do not fit, a row has fewer than k others that may vote, or there is no shuffle.

    Source:
        Kim, Cha, Kim 2025, arXiv:2503.06991: cosine, k = 5, a split of 80 to 20. Here every row is asked once, against
        all rows of other groups.
    """
    samples = check_samples(acts, labels, groups)
    strangers = samples.groups[:, None] != samples.groups
    if k < 1 or draws < 1:
        raise VestigeError(f"neighbours need k and draws of at least 1, got k={k} and draws={draws}")
    if int(strangers.sum(1).min()) < k:
        raise VestigeError(
            f"{k} neighbours of other groups are needed, but row {int(strangers.sum(1).argmin())} has "
            f"{int(strangers.sum(1).min())}; lower k or split the groups"
        )
    voters = _nearest(samples.acts, strangers, k)
    rng = np.random.default_rng(seed)
    by_chance = []
    for _ in range(draws):
        fake = shuffled_labels(samples, rng)
        by_chance.append(float((_elected(fake[voters], samples.n_classes) == fake).mean()))
    return Neighbours(
        right=_elected(samples.labels[voters], samples.n_classes) == samples.labels,
        majority=float(np.bincount(samples.labels).max() / len(samples.labels)),
        shuffled=float(np.mean(by_chance)),
        shuffled_high=float(np.quantile(by_chance, 0.95)),
    )


def _nearest(acts: Float[np.ndarray, "n d_model"], allowed: Bool[np.ndarray, "n n"], k: int) -> Int[np.ndarray, "n k"]:
    spread = acts - acts.mean(0)
    unit = spread / np.linalg.norm(spread, axis=1, keepdims=True).clip(1e-12)
    cosine = np.where(allowed, unit @ unit.T, -np.inf)
    found: Int[np.ndarray, "n k"] = np.argsort(-cosine, axis=1, kind="stable")[:, :k]
    return found


def _elected(votes: Int[np.ndarray, "n k"], n_classes: int) -> Int[np.ndarray, " n"]:
    n, k = votes.shape
    # What nearness adds stays below one vote in all.
    weights = 1 + np.arange(k, 0, -1) / (k * (k + 1))
    total = np.zeros((n, n_classes))
    np.add.at(total, (np.arange(n)[:, None], votes), weights)
    winner: Int[np.ndarray, " n"] = total.argmax(1)
    return winner
