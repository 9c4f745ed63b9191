"""k-sparse probes on planted coordinates: found, enough, chosen without the tested rows, and shuffled away."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hooked import VestigeError
from probes.samples import Samples
from probes.sparse import fit_sparse_probe, telling


def planted(
    rng: torch.Generator, at: dict[int, float], *, n: int = 120, d: int = 24
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows whose coordinates `at` shift by so much in the positive class."""
    labels = torch.arange(n) % 2 == 0
    acts = torch.randn(n, d, generator=rng, dtype=torch.float64)
    for coordinate, shift in at.items():
        acts[labels, coordinate] += shift
    return acts, labels


def test_planted_coordinates_are_chosen_in_order_and_are_enough(rng: torch.Generator) -> None:
    acts, labels = planted(rng, {5: 4.0, 17: 2.5})
    one, two, eight = fit_sparse_probe(acts, labels, groups=range(120), ks=(1, 2, 8), draws=5)
    assert one.coordinates == (5,)
    assert two.coordinates == (5, 17)
    assert len(eight.coordinates) == 8
    assert one.auc > 0.97
    assert two.auc >= one.auc - 0.01
    assert one.low <= one.auc <= one.high


def test_units_do_not_choose(rng: torch.Generator) -> None:
    acts, labels = planted(rng, {3: 2.0})
    scaled = acts * torch.logspace(-3, 3, 24, dtype=torch.float64)
    assert fit_sparse_probe(scaled, labels, groups=range(120), ks=(1,), draws=1)[0].coordinates == (3,)


def test_spread_signals_need_many_coordinates(rng: torch.Generator) -> None:
    acts, labels = planted(rng, dict.fromkeys(range(24), 0.5))
    few, many = fit_sparse_probe(acts, labels, groups=range(120), ks=(1, 24), draws=2)
    assert many.auc > few.auc + 0.1


def test_noise_and_shuffled_labels_are_chance_although_the_best_coordinates_are_taken(rng: torch.Generator) -> None:
    # Of 400 coordinates some suit any 40 labels: chosen on the tested rows too, they would score far above chance.
    acts, labels = planted(rng, {}, n=40, d=400)
    (found,) = fit_sparse_probe(acts, labels, groups=range(40), ks=(8,), draws=20)
    assert 0.2 < found.auc < 0.8
    assert found.shuffled_auc == pytest.approx(0.5, abs=0.08)
    assert found.shuffled_high < 0.85


def test_a_model_that_was_never_taught_is_the_control(rng: torch.Generator) -> None:
    # The same exam, on rows that hold the concept and on rows that do not.
    taught, labels = planted(rng, {5: 3.0})
    never, _ = planted(rng, {})
    found = [fit_sparse_probe(acts, labels, groups=range(120), ks=(1,), draws=5)[0] for acts in (taught, never)]
    assert found[0].auc > 0.9
    assert found[1].auc < 0.7
    assert found[0].auc > found[0].shuffled_high


def test_several_classes(rng: torch.Generator) -> None:
    labels = torch.arange(120) % 3
    acts = torch.randn(120, 10, generator=rng, dtype=torch.float64)
    acts[:, 4] += 4 * labels
    (found,) = fit_sparse_probe(acts, labels, groups=range(120), ks=(1,), draws=2)
    assert found.coordinates == (4,)
    assert found.auc > 0.8


def test_coordinates_that_do_not_vary_come_last() -> None:
    acts = np.array([[1.0, 0, 5], [1, 1, 4], [1, 0, 5], [1, 1, 4.5]])
    assert telling(Samples(acts, np.array([0, 1, 0, 1]), np.arange(4))).tolist() == [1, 2, 0]


def test_a_given_split_is_kept(rng: torch.Generator) -> None:
    acts, labels = planted(rng, {5: 4.0})
    train = [i < 80 for i in range(120)]
    (found,) = fit_sparse_probe(acts, labels, groups=range(120), ks=(1,), train=train, draws=2)
    assert found.auc > 0.97


def test_refusals(rng: torch.Generator) -> None:
    acts, labels = planted(rng, {})
    for ks, got in (((0,), "0"), ((25,), "25"), ((), "none")):
        with pytest.raises(VestigeError, match=f"from 1 to 24, got {got}"):
            fit_sparse_probe(acts, labels, groups=range(120), ks=ks)
    with pytest.raises(VestigeError, match="penalty above 0, got 0"):
        fit_sparse_probe(acts, labels, groups=range(120), l2=0)
