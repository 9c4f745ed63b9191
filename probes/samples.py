"""Labelled activations, and how they are split so that no item is on both sides."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import VestigeError

Duplicates = Literal["refuse", "allow"]
Groups = Sequence[Hashable] | Tensor
Labels = Sequence[Hashable] | Tensor


@dataclass(frozen=True)
class Samples:
    """Checked rows.

    Args:
        acts: Activations, float64.
        labels: Class index of each row.
        groups: Group index of each row: what may not be split (an item, an entity, a statement).
        n_duplicates: Rows that repeat a row of another group.
        n_conflicts: Rows that equal a row with another label.
    """

    acts: Float[np.ndarray, "n d_model"]
    labels: Int[np.ndarray, " n"]
    groups: Int[np.ndarray, " n"]
    n_duplicates: int = 0
    n_conflicts: int = 0

    @property
    def n_classes(self) -> int:
        """Number of classes."""
        return int(self.labels.max()) + 1

    @property
    def n_groups(self) -> int:
        """Number of groups."""
        return int(self.groups.max()) + 1


def check_samples(
    acts: Float[Tensor, "n d_model"], labels: Labels, groups: Groups, *, duplicates: Duplicates = "allow"
) -> Samples:
    """Check activations, labels and groups, and number the classes and groups.

    Args:
        acts: One row per observation.
        labels: Any values; bools count False, True, others in sorted order.
        groups: One value per row; rows that share one are never split.
        duplicates: `refuse` raises on a row that occurs in two groups (a copy of a training row could be tested) or
            under two labels (the question has no answer there); `allow` counts both.

    Raises:
        VestigeError: Lengths differ, a value is not finite, there is one class, or `duplicates` says so.
    """
    if acts.ndim != 2 or len(acts) == 0:
        raise VestigeError(f"activations are [n, d_model] with n above 0, got {tuple(acts.shape)}")
    if len(labels) != len(acts) or len(groups) != len(acts):
        raise VestigeError(f"{len(acts)} rows of activations but {len(labels)} labels and {len(groups)} groups")
    rows = acts.detach().to("cpu", torch.float64).numpy()
    if not np.isfinite(rows).all():
        raise VestigeError(f"row {int(np.argmin(np.isfinite(rows).all(-1)))} of the activations holds NaN or infinity")
    y, g = _numbered(labels), _numbered(groups)
    if y.max() == 0:
        raise VestigeError(
            f"a probe needs at least two classes, and all {len(y)} rows have label {_plain(labels)[0]!r}"
        )
    same = _same_rows(rows)
    conflicts, copies = _mixed(same, y), _mixed(same, g)
    if duplicates == "refuse":
        _refuse(conflicts, same, y, "labels; they cannot be told apart, so drop one (or pass duplicates='allow')")
        _refuse(
            copies, same, g, "groups; give copies one group, or train and test share rows (or pass duplicates='allow')"
        )
    return Samples(rows, y, g, int(copies.sum()), int(conflicts.sum()))


def assign_folds(samples: Samples, *, folds: int, seed: int) -> Int[np.ndarray, " n"]:
    """Give every group to one of `folds` test sets, so that each holds about the same share of every class.

    Groups are taken in random order, unequal ones first, and each goes where the squared class shares grow least. With
    fewer groups per class than folds, there are as many folds as the rarest class has groups.

    Raises:
        VestigeError: A class lies in one group only, so that it cannot be both trained and tested.
    """
    counts = np.zeros((samples.n_groups, samples.n_classes))
    np.add.at(counts, (samples.groups, samples.labels), 1)
    spread = (counts > 0).sum(0)
    rarest = int(spread.min())
    if rarest < 2:
        raise VestigeError(
            f"class number {int(spread.argmin())} occurs in fewer than two groups, so a split by group "
            "cannot train and test on it; group by something finer, or collect more items"
        )
    if folds < 2:
        raise VestigeError(f"cross-validation needs at least 2 folds, got {folds}")
    folds = min(folds, rarest)
    share = counts / counts.sum(0)
    order = torch.randperm(len(counts), generator=torch.Generator().manual_seed(seed)).numpy()
    order = order[np.argsort(-share[order].max(-1), kind="stable")]
    held = np.zeros((folds, samples.n_classes))
    fold_of = np.zeros(len(counts), dtype=np.int64)
    for group in order:
        growth = (2 * held * share[group] + share[group] ** 2).sum(-1)
        best = int(np.argmin(growth))
        fold_of[group] = best
        held[best] += share[group]
    return np.asarray(fold_of[samples.groups])


def folds_of_split(samples: Samples, train: Sequence[bool] | Tensor) -> Int[np.ndarray, " n"]:
    """Turn a ready-made split into folds: 0 is tested, -1 only trained on.

    Raises:
        VestigeError: A group is on both sides, a side is empty, or the training side lacks a class.
    """
    mask = np.asarray(torch.as_tensor(train).cpu().numpy(), dtype=bool)
    if mask.shape != samples.labels.shape:
        raise VestigeError(f"the split has {mask.size} entries for {len(samples.labels)} rows")
    both = np.intersect1d(samples.groups[mask], samples.groups[~mask])
    if len(both):
        row = int(np.argmax((samples.groups == both[0]) & mask))
        raise VestigeError(
            f"the split leaks: the group of row {row} is in train and test, {len(both)} groups in all; split by group"
        )
    if (
        mask.all()
        or len(np.unique(samples.labels[mask])) < samples.n_classes
        or len(np.unique(samples.labels[~mask])) < 2
    ):
        raise VestigeError("the training side of the split needs every class and the test side at least two")
    return np.where(mask, -1, 0)


def shuffled_labels(samples: Samples, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """Return the labels permuted as the grouping allows: whole groups where each has one label, within groups where
    each has several.

    Permuting single rows of one-label groups would make copies of an item disagree, a null that no real labelling
    belongs to.
    """
    labels, groups = samples.labels, samples.groups
    mixed = _mixed(groups, labels)
    if not mixed.any():
        first = np.unique(groups, return_index=True)[1]
        return np.asarray(rng.permutation(labels[first])[groups])
    if not mixed.all():
        return np.asarray(rng.permutation(labels))
    by_group = np.lexsort((np.arange(len(labels)), groups))
    shuffled = np.lexsort((rng.random(len(labels)), groups))
    out = np.empty_like(labels)
    out[by_group] = labels[shuffled]
    return out


def _plain(values: Sequence[Any] | Tensor) -> list[Any]:
    return list(values.tolist() if isinstance(values, Tensor) else values)


def _numbered(values: Sequence[Any] | Tensor) -> Int[np.ndarray, " n"]:
    plain = _plain(values)
    try:
        names = sorted(set(plain))
    except TypeError as error:
        raise VestigeError(f"labels and groups are plain values of one type (bool, int or str): {error}") from error
    index = {name: i for i, name in enumerate(names)}
    return np.asarray([index[value] for value in plain], dtype=np.int64)


def _same_rows(rows: Float[np.ndarray, "n d_model"]) -> Int[np.ndarray, " n"]:
    """Number the distinct rows. Rows that differ by rounding alone (one text in two batches) count as the same."""
    tolerance = 1e-5 * np.sqrt(np.square(rows).mean())
    # Equal rows are neighbours in the order of almost any projection; whether neighbours are equal is then checked in
    # full.
    order = np.argsort(rows @ np.random.default_rng(0).standard_normal(rows.shape[1]), kind="stable")
    new = (np.abs(np.diff(rows[order], axis=0)) > tolerance).any(-1)
    same = np.empty(len(rows), dtype=np.int64)
    same[order] = np.concatenate([[0], new.cumsum()])
    return same


def _mixed(same: Int[np.ndarray, " n"], other: Int[np.ndarray, " n"]) -> Any:
    """Whether the rows that share a value of `same` disagree in `other`; one flag per row."""
    low = np.full(int(same.max()) + 1, np.iinfo(np.int64).max)
    high = np.full(int(same.max()) + 1, -1)
    np.minimum.at(low, same, other)
    np.maximum.at(high, same, other)
    return (low != high)[same]


def _refuse(bad: Any, same: Int[np.ndarray, " n"], other: Int[np.ndarray, " n"], advice: str) -> None:
    if bad.any():
        row = int(np.argmax(bad))
        twin = int(np.argmax((same == same[row]) & (other != other[row])))
        raise VestigeError(f"rows {row} and {twin} of the activations are the same but lie in two {advice}")
