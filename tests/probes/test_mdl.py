"""Code lengths: closed forms without signal, savings with it, and what chance and frequencies cost."""

from __future__ import annotations

from math import log2

import pytest
import torch

from hooked import VestigeError
from probes.mdl import code_length


def planted(
    rng: torch.Generator, strength: float, *, n: int = 120, kinds: int = 2
) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(n) % kinds
    axes = torch.randn(kinds, 12, generator=rng, dtype=torch.float64)
    return strength * axes[labels] + torch.randn(n, 12, generator=rng, dtype=torch.float64), labels


@pytest.mark.parametrize("kinds", [2, 4])
def test_the_uniform_code_is_the_logarithm_of_the_classes(rng: torch.Generator, kinds: int) -> None:
    acts, labels = planted(rng, 0.0, kinds=kinds)
    found = code_length(acts, labels, groups=range(120), draws=1)
    assert (found.uniform_bits, found.n, found.n_classes) == (pytest.approx(120 * log2(kinds)), 120, kinds)


@pytest.mark.parametrize("kinds", [2, 4])
def test_signal_saves_bits_and_noise_saves_none(rng: torch.Generator, kinds: int) -> None:
    strong, weak, none = (
        code_length(*planted(rng, strength, kinds=kinds), groups=range(120), draws=3) for strength in (3.0, 0.7, 0.0)
    )
    assert strong.bits < weak.bits < none.bits
    assert strong.compression > 2.5
    assert strong.bits < strong.shuffled_low
    # A code cannot gain by chance more than a few bits.
    assert none.bits > none.uniform_bits - 4
    for found in (strong, weak, none):
        assert found.shuffled_bits > found.uniform_bits - 4


def test_easier_is_shorter_though_both_are_read_without_error(rng: torch.Generator) -> None:
    # Accuracy would call these two equal: the classes lie apart in both, in one of them twice as far.
    near, far = (code_length(*planted(rng, strength, n=400), groups=range(400), draws=1) for strength in (2.0, 4.0))
    assert far.bits < near.bits


def test_frequencies_alone_are_paid_as_the_adaptive_code() -> None:
    labels = torch.tensor([0] * 4 + [1] * 60)
    acts = torch.zeros(64, 3, dtype=torch.float64)
    acts[:, 0] = torch.arange(64)
    found = code_length(acts, labels, groups=range(64), draws=2)
    entropy = -(4 / 64 * log2(4 / 64) + 60 / 64 * log2(60 / 64)) * 64
    assert entropy < found.frequency_bits < found.uniform_bits
    assert found.shuffled_bits > entropy


def test_probes_of_a_never_taught_model_save_less(rng: torch.Generator) -> None:
    acts, labels = planted(rng, 2.0)
    never = torch.randn(120, 12, generator=rng, dtype=torch.float64)
    assert (
        code_length(acts, labels, groups=range(120), draws=1).bits
        < 0.6 * code_length(never, labels, groups=range(120), draws=1).bits
    )


def test_groups_are_sent_whole(rng: torch.Generator) -> None:
    # Every row occurs eight times with a random label: sent apart, its copies would give it away.
    acts = torch.randn(30, 40, generator=rng, dtype=torch.float64).repeat_interleave(8, 0)
    labels = torch.randint(0, 2, (30,), generator=rng).repeat_interleave(8)
    whole = code_length(acts, labels, groups=[i // 8 for i in range(240)], draws=1)
    apart = code_length(acts, labels, groups=range(240), draws=1)
    assert apart.bits < 0.7 * whole.uniform_bits < whole.bits


def test_a_class_that_comes_late_has_a_finite_price() -> None:
    acts = torch.randn(40, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.tensor([0] * 20 + [1] * 19 + [2])
    found = code_length(acts, labels, groups=range(40), draws=1)
    assert found.bits < 2 * found.uniform_bits


def test_choosing_the_penalty_is_paid_for(rng: torch.Generator) -> None:
    acts, labels = planted(rng, 1.0)
    grid = (1e-2, 1.0)
    alone = [code_length(acts, labels, groups=range(120), l2=(x,), draws=1).bits for x in grid]
    assert code_length(acts, labels, groups=range(120), l2=grid, draws=1).bits == pytest.approx(min(alone) + 1)


def test_a_seed_decides_everything(rng: torch.Generator) -> None:
    acts, labels = planted(rng, 1.0)
    one, same, other = (code_length(acts, labels, groups=range(120), draws=2, seed=s) for s in (1, 1, 2))
    assert one == same != other


def test_refusals(rng: torch.Generator) -> None:
    acts, labels = planted(rng, 1.0, n=6)
    with pytest.raises(VestigeError, match="at least 4 groups, got 3"):
        code_length(acts, labels, groups=[0, 0, 1, 1, 2, 2])
    with pytest.raises(VestigeError, match=r"penalties above 0, got \(0,\)"):
        code_length(acts, labels, groups=range(6), l2=(0,))
    with pytest.raises(VestigeError, match="at least one shuffle, got draws=0"):
        code_length(acts, labels, groups=range(6), draws=0)
