"""Directions: what they are, and what they are worth on items they never saw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from hooked import VestigeError
from probes import Direction, held_out_auc, logistic, mean_difference, paired_pca

FITS = [mean_difference, paired_pca, logistic]
Cloud = Callable[..., tuple[Tensor, Tensor, Tensor]]


def test_a_direction_scores_signed_distances() -> None:
    direction = Direction(torch.tensor([3.0, 4.0]), 5.0, site="blocks.1.hook_resid_post")
    acts = torch.tensor([[[1.0, 1.0], [0.0, 1.0]], [[3.0, -1.0], [0.0, 0.0]]])
    assert direction(acts).tolist() == [[2.0, -1.0], [0.0, -5.0]]


def test_mean_difference_by_hand() -> None:
    acts = torch.tensor([[0.0, 0.0], [0.0, 2.0], [4.0, 0.0], [6.0, 2.0]])
    found = mean_difference(acts, [False, False, True, True], site="here")
    assert found.vector.tolist() == [5.0, 0.0]
    # Half-way between the means (0, 1) and (5, 1).
    assert found.threshold == 12.5
    assert found.site == "here"


def test_mean_difference_is_linear_in_the_activations(cloud: Cloud) -> None:
    acts, labels, _ = cloud()
    move, turn = torch.randn(8, dtype=acts.dtype), torch.linalg.qr(torch.randn(8, 8, dtype=acts.dtype))[0]
    plain, moved = mean_difference(acts, labels), mean_difference(acts @ turn + move, labels)
    torch.testing.assert_close(moved.vector, plain.vector @ turn)
    torch.testing.assert_close(moved(acts @ turn + move), plain(acts))


def test_paired_pca_is_the_leading_axis_of_the_differences(cloud: Cloud) -> None:
    acts, labels, groups = cloud()
    differences = acts[labels] - acts[~labels]
    # The uncentred second moment of the differences, by its eigenvectors.
    axis = torch.linalg.eigh(differences.T @ differences)[1][:, -1]
    found = paired_pca(acts, labels, groups=groups)
    torch.testing.assert_close((found.vector @ axis).abs(), torch.tensor(1.0, dtype=acts.dtype))
    assert float(found.vector @ differences.mean(0)) > 0


def test_paired_pca_ignores_what_a_pair_shares(cloud: Cloud) -> None:
    acts, labels, groups = cloud(d_model=4)
    noise = 1000.0 * torch.randn(60, 4, dtype=acts.dtype)[groups]
    plain, noisy = (paired_pca(a, labels, groups=groups).vector for a in (acts, acts + noise))
    torch.testing.assert_close(plain, noisy)


def test_a_common_shift_survives_because_differences_are_not_centred() -> None:
    # Every pair differs by exactly the same vector: centring would leave nothing.
    base = torch.randn(20, 6, dtype=torch.float64)
    shift = torch.tensor([0.0, 3.0, 0.0, 4.0, 0.0, 0.0], dtype=torch.float64)
    acts, labels = torch.cat([base, base + shift]), torch.arange(40) >= 20
    found = paired_pca(acts, labels, groups=torch.arange(20).repeat(2))
    torch.testing.assert_close(found.vector, shift / 5)


def test_paired_pca_averages_several_rows_of_a_class() -> None:
    acts = torch.tensor([[0.0, 0.0], [2.0, 0.0], [1.0, 2.0], [5.0, 1.0], [5.0, 4.0]])
    found = paired_pca(acts, [0, 0, 1, 0, 1], groups=["a", "a", "a", "b", "b"])
    assert found.vector.tolist() == pytest.approx([0.0, 1.0])


def test_logistic_equals_scikit_learn_on_standardised_rows(cloud: Cloud) -> None:
    acts, labels, _ = cloud(shift=1.0)
    acts = acts * torch.logspace(-2, 2, 8, dtype=acts.dtype) + 5.0
    oracle = make_pipeline(StandardScaler(), LogisticRegression(C=1 / (0.01 * len(acts)), tol=1e-8, max_iter=10_000))
    oracle.fit(acts.numpy(), labels.numpy())
    found = logistic(acts, labels)
    expected = torch.from_numpy(oracle.decision_function(acts.numpy()))
    torch.testing.assert_close(found(acts), expected, rtol=1e-3, atol=1e-3)


def test_a_constant_activation_gets_no_weight(cloud: Cloud) -> None:
    acts, labels, _ = cloud()
    acts[:, 3] = 7.0
    found = logistic(acts, labels)
    assert float(found.vector[3]) == 0.0
    assert bool(torch.isfinite(found.vector).all())


@pytest.mark.parametrize("fit", FITS)
def test_fits_keep_dtype_and_inputs_and_point_to_true(fit: Any, cloud: Cloud) -> None:
    acts, labels, groups = cloud(dtype=torch.float32)
    kept = acts.clone()
    found = fit(acts, labels, groups=groups)
    assert found.vector.dtype == torch.float32
    assert torch.equal(acts, kept)
    assert float(found(acts[labels]).mean()) > 0 > float(found(acts[~labels]).mean())
    flipped = fit(acts, ~labels, groups=groups)
    torch.testing.assert_close(flipped(acts), -found(acts), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("fit", FITS)
def test_signal_is_found_and_controls_are_at_chance(fit: Any, cloud: Cloud) -> None:
    acts, labels, groups = cloud(d_model=32)
    found = held_out_auc(fit, acts, labels, groups=groups)
    assert found.auc > 0.8
    assert found.low > found.shuffled_high
    assert found.low <= found.auc <= found.high <= 1
    assert found.shuffled_low <= 0.5 <= found.shuffled_high
    assert abs(found.shuffled_auc - 0.5) < 0.1
    assert 0.4 < found.random_direction_auc < found.auc - 0.1
    assert (found.n_test, found.n_groups) == (120, 60)


@pytest.mark.parametrize("fit", FITS)
def test_without_signal_the_interval_covers_chance(fit: Any, cloud: Cloud) -> None:
    acts, labels, groups = cloud(shift=0.0, d_model=16)
    found = held_out_auc(fit, acts, labels, groups=groups)
    assert found.low <= 0.5 <= found.high
    assert found.shuffled_low - 0.05 <= found.auc <= found.shuffled_high + 0.05


def test_memorised_groups_do_not_count_as_signal(rng: torch.Generator) -> None:
    # Many rows per group, labels by group: a split by row would score near 1 from the group's fingerprint alone.
    groups = torch.arange(20).repeat_interleave(15)
    labels = (torch.arange(20) % 2 == 0)[groups]
    acts = torch.randn(20, 64, generator=rng)[groups] + 0.05 * torch.randn(300, 64, generator=rng)
    honest = held_out_auc(logistic, acts, labels, groups=groups)
    by_row = held_out_auc(logistic, acts, labels, groups=torch.arange(300))
    assert by_row.auc > 0.99
    assert honest.shuffled_low <= honest.auc <= honest.shuffled_high


def test_results_are_seeded(cloud: Cloud) -> None:
    acts, labels, groups = cloud(shift=1.0, n_groups=20)
    first = held_out_auc(mean_difference, acts, labels, groups=groups)
    assert first == held_out_auc(mean_difference, acts, labels, groups=groups)
    assert first != held_out_auc(mean_difference, acts, labels, groups=groups, seed=1)


def test_a_ready_made_split_is_used_and_may_not_leak(cloud: Cloud) -> None:
    acts, labels, groups = cloud()
    found = held_out_auc(mean_difference, acts, labels, groups=groups, train=groups < 40)
    assert (found.n_test, found.n_groups) == (40, 20)
    with pytest.raises(VestigeError, match="the split leaks: the group of row 80"):
        held_out_auc(mean_difference, acts, labels, groups=groups, train=torch.arange(120) < 81)


def test_copies_are_refused_unless_allowed(cloud: Cloud) -> None:
    acts, labels, groups = cloud(n_groups=10)
    acts[13] = acts[3]
    with pytest.raises(VestigeError, match=r"rows 3 and 13 .* lie in two groups"):
        held_out_auc(mean_difference, acts, labels, groups=groups)
    held_out_auc(mean_difference, acts, labels, groups=groups, duplicates="allow", draws=1, resamples=10)


@pytest.mark.parametrize("fit", FITS)
def test_equal_classes_have_no_direction(fit: Any) -> None:
    acts = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 1.0], [3.0, 1.0]])
    with pytest.raises(VestigeError, match="no direction separates them"):
        fit(acts, [0, 1, 0, 1], groups=[0, 0, 1, 1])


def test_errors(cloud: Cloud) -> None:
    acts, labels, groups = cloud(n_groups=3)
    with pytest.raises(VestigeError, match="separates two classes, got 3"):
        mean_difference(acts, [0, 1, 2, 0, 1, 2])
    with pytest.raises(VestigeError, match="paired_pca needs groups"):
        paired_pca(acts, labels)
    with pytest.raises(VestigeError, match="the group of row 2 lacks one"):
        paired_pca(acts, [0, 1, 1, 1, 0, 1], groups=groups)
    with pytest.raises(VestigeError, match="at least one draw, got 0"):
        held_out_auc(mean_difference, acts, labels, groups=groups, draws=0)
