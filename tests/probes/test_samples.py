"""Splits keep groups together and classes in balance, and leaks are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hooked import VestigeError
from probes.samples import Samples, assign_folds, check_samples, folds_of_split, shuffled_labels


def samples(labels: list[int], groups: list[int]) -> Samples:
    return Samples(np.zeros((len(labels), 1)), np.array(labels), np.array(groups))


@given(
    groups_per_class=st.lists(st.integers(2, 12), min_size=2, max_size=4),
    rows=st.integers(1, 3),
    folds=st.integers(2, 7),
    seed=st.integers(0, 10),
)
def test_folds_partition_the_groups_and_every_training_part_has_every_class(
    groups_per_class: list[int], rows: int, folds: int, seed: int
) -> None:
    of_group = np.repeat(np.arange(len(groups_per_class)), groups_per_class)
    groups = np.repeat(np.arange(len(of_group)), rows)
    data = Samples(np.zeros((len(groups), 1)), of_group[groups], groups)
    found = assign_folds(data, folds=folds, seed=seed)
    assert set(found) == set(range(min(folds, *groups_per_class)))
    for group in range(len(of_group)):
        assert len(set(found[groups == group])) == 1
    for fold in set(found):
        assert set(data.labels[found != fold]) == set(data.labels) == set(data.labels[found == fold])


def test_folds_are_seeded_and_balanced() -> None:
    labels = [i % 3 == 0 for i in range(60)]
    data = samples([int(x) for x in labels], list(range(60)))
    first = assign_folds(data, folds=5, seed=0)
    assert (first == assign_folds(data, folds=5, seed=0)).all()
    assert (first != assign_folds(data, folds=5, seed=1)).any()
    assert np.bincount(first[data.labels == 1]).tolist() == [4] * 5
    assert np.bincount(first[data.labels == 0]).tolist() == [8] * 5


def test_groups_and_labels_may_be_any_plain_values() -> None:
    found = check_samples(torch.eye(4), [True, False, True, False], ["a", "a", "b", "b"])
    assert found.labels.tolist() == [1, 0, 1, 0]
    assert found.groups.tolist() == [0, 0, 1, 1]
    assert (found.n_classes, found.n_groups) == (2, 2)


def test_copies_and_two_label_rows_are_counted_or_refused() -> None:
    acts = torch.arange(12.0).reshape(6, 2)
    acts[4] = acts[1] * (1 + 1e-7)
    labels, groups = [0, 1, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5]
    found = check_samples(acts, labels, groups)
    assert (found.n_duplicates, found.n_conflicts) == (2, 2)
    with pytest.raises(VestigeError, match="rows 1 and 4 of the activations are the same but lie in two labels"):
        check_samples(acts, labels, groups, duplicates="refuse")
    same_label = [0, 1, 0, 1, 1, 0]
    with pytest.raises(VestigeError, match=r"rows 1 and 4 .* lie in two groups"):
        check_samples(acts, same_label, groups, duplicates="refuse")
    one_group = check_samples(acts, same_label, [0, 1, 2, 3, 1, 5], duplicates="refuse")
    assert (one_group.n_duplicates, one_group.n_conflicts) == (0, 0)


def test_a_ready_made_split_may_not_leak() -> None:
    data = samples([0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 2, 2])
    assert folds_of_split(data, [True, True, False, False, True, True]).tolist() == [-1, -1, 0, 0, -1, -1]
    with pytest.raises(VestigeError, match="the split leaks: the group of row 2 is in train and test, 1 groups in all"):
        folds_of_split(data, [True, True, True, False, False, False])
    with pytest.raises(VestigeError, match="4 entries for 6 rows"):
        folds_of_split(data, [True] * 4)
    with pytest.raises(VestigeError, match="needs every class and the test side at least two"):
        folds_of_split(data, [True] * 6)


@pytest.mark.parametrize("shape", ["between", "within", "mixed"])
def test_shuffles_respect_the_groups(shape: str) -> None:
    labels, groups = {
        "between": ([0, 0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 2, 3, 3]),
        "within": ([0, 1, 1, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2, 2]),
        "mixed": ([0, 1, 0, 0, 0, 1, 1], [0, 0, 1, 1, 2, 2, 2]),
    }[shape]
    data = samples(labels, groups)
    rng = np.random.default_rng(0)
    drawn = [shuffled_labels(data, rng) for _ in range(200)]
    assert len({tuple(y) for y in drawn}) > 3
    for y in drawn:
        if shape == "between":
            assert all(len(set(y[data.groups == g])) == 1 for g in range(4))
            continue
        assert sorted(y) == sorted(labels)
        if shape == "within":
            assert all(sorted(y[data.groups == g]) == sorted(data.labels[data.groups == g]) for g in range(3))
    if shape == "mixed":
        assert any(y[2] != y[3] for y in drawn)


@pytest.mark.parametrize(
    ("acts", "labels", "groups", "message"),
    [
        (torch.zeros(0, 3), [], [], r"n above 0, got \(0, 3\)"),
        (torch.zeros(2, 2, 2), [0, 1], [0, 1], r"got \(2, 2, 2\)"),
        (torch.eye(3), [0, 1], [0, 1, 2], "3 rows of activations but 2 labels and 3 groups"),
        (torch.tensor([[1.0], [torch.nan]]), [0, 1], [0, 1], "row 1 of the activations holds NaN"),
        (torch.eye(3), [4, 4, 4], [0, 1, 2], "all 3 rows have label 4"),
        (torch.eye(3), [0, "a", 1], [0, 1, 2], "plain values of one type"),
    ],
)
def test_errors(acts: torch.Tensor, labels: list[object], groups: list[int], message: str) -> None:
    with pytest.raises(VestigeError, match=message):
        check_samples(acts, labels, groups)  # type: ignore[arg-type]


def test_fold_errors() -> None:
    with pytest.raises(VestigeError, match="class number 1 occurs in fewer than two groups"):
        assign_folds(samples([0, 0, 0, 1], [0, 1, 2, 3]), folds=2, seed=0)
    with pytest.raises(VestigeError, match="at least 2 folds, got 1"):
        assign_folds(samples([0, 0, 1, 1], [0, 1, 2, 3]), folds=1, seed=0)
