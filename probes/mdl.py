"""Minimum description length of labels given activations: not whether a probe can read them, but how easily.

Labels are sent one block after the other. Each block is coded by a probe that was fitted on the blocks before it, so
that everything the probe had to learn is paid for in bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, log2

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from hooked import VestigeError
from probes.held_out import one_blas_thread
from probes.linear import standardised_logistic
from probes.samples import Groups, Labels, Samples, check_samples, shuffled_labels

# Parts of the groups after which the probe is fitted anew: each block doubles what was sent before it.
PARTS = (0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.0625, 0.125, 0.25, 0.5, 1.0)
L2_GRID = (1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class CodeLength:
    """What it costs to send labels to somebody who has the activations, in bits.

    Args:
        bits: With the probe.
        uniform_bits: Without any knowledge: log2 of the number of classes, per row.
        frequency_bits: With nothing but the frequencies of the labels sent so far.
        shuffled_bits: Mean with the probe on shuffled labels.
        shuffled_low: 5th percentile over the shuffles: what chance may reach.
        n: Rows.
        n_classes: Number of classes.
    """

    bits: float
    uniform_bits: float
    frequency_bits: float
    shuffled_bits: float
    shuffled_low: float
    n: int
    n_classes: int

    @property
    def compression(self) -> float:
        """`uniform_bits / bits`: 1 where the activations say nothing, and more the more easily they are read."""
        return self.uniform_bits / self.bits


@one_blas_thread()
def code_length(
    acts: Float[Tensor, "n d_model"],
    labels: Labels,
    *,
    groups: Groups,
    l2: Sequence[float] = L2_GRID,
    draws: int = 10,
    seed: int = 0,
) -> CodeLength:
    """Return the online (prequential) code length of labels with a linear probe.

    Groups are sent in random order, whole, in blocks that double what came before. The first block is sent without a
    probe. Of several penalties the cheapest counts, and naming it is paid for too, so nothing is chosen for free; the
    shuffled labels get the same choice.

    Args:
        acts: One row per observation.
        labels: Two or more classes.
        groups: What may not be split: item, entity or distinct statement, never a token.
        l2: Penalties, each `l2 / 2 |w|^2` added to the mean loss.
        draws: Shuffles behind the control.
        seed: Of the order and the shuffles.

    Raises:
        VestigeError: Labels or groups do not fit, there are fewer than 4 groups, a penalty is not above 0, or there is
            no shuffle.

    Source:
        Voita and Titov 2020, arXiv:2003.12298, section 2.2.2. There a class that was not seen yet has what a neural
        probe happens to give it; here n rows p of the probe count against one row of every class, (n p + 1) / (n + K),
        which keeps every code finite.
    """
    if not l2 or min(l2) <= 0:
        raise VestigeError(f"l2 is a list of penalties above 0, got {tuple(l2)}")
    if draws < 1:
        raise VestigeError(f"the control needs at least one shuffle, got draws={draws}")
    samples = check_samples(acts, labels, groups)
    if samples.n_groups < 4:
        raise VestigeError(f"an online code needs at least 4 groups, got {samples.n_groups}")
    rng = np.random.default_rng(seed)
    block = _blocks(samples, rng)
    fakes = [Samples(samples.acts, shuffled_labels(samples, rng), samples.groups) for _ in range(draws)]
    by_chance = [_cheapest(fake, block, l2) for fake in fakes]
    return CodeLength(
        bits=_cheapest(samples, block, l2),
        uniform_bits=len(block) * log2(samples.n_classes),
        frequency_bits=_bits(samples, block, None),
        shuffled_bits=float(np.mean(by_chance)),
        shuffled_low=float(np.quantile(by_chance, 0.05)),
        n=len(block),
        n_classes=samples.n_classes,
    )


def _blocks(samples: Samples, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """Return the block in which each row is sent."""
    ends = sorted({ceil(part * samples.n_groups) for part in PARTS})
    place = rng.permutation(samples.n_groups)
    found: Int[np.ndarray, " n"] = np.searchsorted(ends, place[samples.groups], side="right")
    return found


def _cheapest(samples: Samples, block: Int[np.ndarray, " n"], grid: Sequence[float]) -> float:
    return min(_bits(samples, block, penalty) for penalty in grid) + log2(len(grid))


def _bits(samples: Samples, block: Int[np.ndarray, " n"], l2: float | None) -> float:
    """Return the length of all blocks; with no penalty given, by frequencies alone."""
    k = samples.n_classes
    first = block == block.min()
    total = float(first.sum()) * log2(k)
    for now in range(int(block.min()) + 1, int(block.max()) + 1):
        sent, rows = block < now, np.flatnonzero(block == now)
        known = Samples(samples.acts[sent], samples.labels[sent], samples.groups[sent])
        n = int(sent.sum())
        p = _predicted(known, samples.acts[rows], k, l2)
        coded = (n * p[np.arange(len(rows)), samples.labels[rows]] + 1) / (n + k)
        total -= float(np.log2(coded).sum())
    return total


def _predicted(
    known: Samples, acts: Float[np.ndarray, "n d_model"], n_classes: int, l2: float | None
) -> Float[np.ndarray, "n n_classes"]:
    seen, index = np.unique(known.labels, return_inverse=True)
    p = np.zeros((len(acts), n_classes))
    if l2 is None or len(seen) == 1:
        p[:, seen] = np.bincount(index) / len(index)
        return p
    weight, bias = standardised_logistic(known.acts, index, l2=l2)
    scores = acts @ weight + bias
    if len(seen) == 2:
        scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
    spread = np.exp(scores - scores.max(1, keepdims=True))
    p[:, seen] = spread / spread.sum(1, keepdims=True)
    return p
