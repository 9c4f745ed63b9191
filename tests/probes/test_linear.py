"""Linear probes: signal, floors, and no leak through the penalty, the scaling or the split."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from hooked import VestigeError
from probes import fit_linear_probe, probe_per_layer
from tests.tiny import tiny_model

Cloud = Callable[..., tuple[Tensor, Tensor, Tensor]]


def test_signal_is_found_and_controls_are_at_chance(cloud: Cloud) -> None:
    acts, labels, groups = cloud(d_model=32)
    found = fit_linear_probe(acts, labels, groups=groups)
    assert found.auc > 0.9
    assert found.low <= found.auc <= found.high
    assert found.accuracy > 0.75 > found.majority == 0.5
    assert found.shuffled_low <= 0.5 <= found.shuffled_high
    assert 0.4 < found.random_direction_auc < found.auc - 0.1
    assert (found.n_test, found.n_groups, found.n_classes, found.n_train) == (120, 60, 2, 96)
    assert (found.n_duplicates, found.n_conflicts) == (0, 0)


@pytest.mark.parametrize("d_model", [4, 200])
def test_without_signal_the_interval_covers_chance(d_model: int, cloud: Cloud) -> None:
    acts, labels, groups = cloud(shift=0.0, d_model=d_model)
    found = fit_linear_probe(acts, labels, groups=groups)
    assert found.low <= 0.5 <= found.high
    assert found.shuffled_low <= 0.5 <= found.shuffled_high


def test_memorised_groups_do_not_count_as_signal(rng: torch.Generator) -> None:
    groups = torch.arange(20).repeat_interleave(15)
    labels = (torch.arange(20) % 2 == 0)[groups]
    acts = torch.randn(20, 64, generator=rng)[groups] + 0.05 * torch.randn(300, 64, generator=rng)
    assert fit_linear_probe(acts, labels, groups=torch.arange(300), draws=2).auc > 0.99
    honest = fit_linear_probe(acts, labels, groups=groups)
    assert honest.shuffled_low <= honest.auc <= honest.shuffled_high
    assert honest.shuffled_low <= 0.5 <= honest.shuffled_high


def test_a_shift_and_scale_of_the_activations_change_nothing(cloud: Cloud) -> None:
    acts, labels, groups = cloud(shift=1.0)
    plain = fit_linear_probe(acts, labels, groups=groups, draws=2)
    moved = fit_linear_probe(1000.0 * acts + 3.0, labels, groups=groups, draws=2)
    assert moved.auc == pytest.approx(plain.auc, abs=1e-3)
    assert moved.accuracy == pytest.approx(plain.accuracy, abs=0.02)


def test_the_penalty_is_chosen_on_training_rows(rng: torch.Generator) -> None:
    # One weak direction among many noisy ones: the strongest penalty of the grid generalises best.
    labels, groups = torch.arange(80) % 2 == 0, torch.arange(80)
    acts = torch.randn(80, 120, generator=rng)
    acts[:, :40] += 0.4 * labels[:, None]
    grid = (1e-4, 10.0)
    found = fit_linear_probe(acts, labels, groups=groups, l2=grid, draws=2)
    each = [fit_linear_probe(acts, labels, groups=groups, l2=[x], draws=2).auc for x in grid]
    assert found.l2 in grid
    assert min(each) - 1e-9 <= found.auc <= max(each) + 1e-9


def test_tested_rows_have_no_say_in_the_penalty(cloud: Cloud, rng: torch.Generator) -> None:
    acts, labels, groups = cloud(shift=0.5, n_groups=40, d_model=30)
    train = groups < 20
    chosen = set()
    for _ in range(8):
        acts[~train] = 5.0 * torch.randn(40, 30, generator=rng, dtype=acts.dtype)
        chosen.add(fit_linear_probe(acts, labels, groups=groups, train=train, draws=1, resamples=1).l2)
    assert len(chosen) == 1


def test_several_classes(rng: torch.Generator) -> None:
    labels = torch.arange(90) % 3
    centres = 2.0 * torch.randn(3, 12, generator=rng)
    acts = centres[labels] + torch.randn(90, 12, generator=rng)
    found = fit_linear_probe(acts, ["xyz"[i] for i in labels], groups=torch.arange(90))
    assert found.n_classes == 3
    assert found.auc > 0.9
    assert found.accuracy > 0.8 > found.majority == pytest.approx(1 / 3)
    assert found.shuffled_low <= 0.5 <= found.shuffled_high
    noise = fit_linear_probe(torch.randn(90, 12, generator=rng), labels, groups=torch.arange(90))
    assert noise.low <= 0.5 <= noise.high
    assert abs(noise.accuracy - noise.majority) < 0.2


def test_layers_are_probed_alike(cloud: Cloud) -> None:
    acts, labels, groups = cloud(d_model=10)
    blind, _, _ = cloud(shift=0.0, d_model=10)
    found = probe_per_layer(torch.stack([blind, acts], 1), labels, groups=groups, draws=3)
    assert len(found) == 2
    assert found[1] == fit_linear_probe(acts, labels, groups=groups, draws=3)
    assert found[0].low <= 0.5 <= found[0].high < found[1].low


def test_a_random_model_knows_nothing() -> None:
    # Which of two words is "right" is a coin toss, so no layer of a random model can tell.
    model = tiny_model("llama")
    toss = np.random.default_rng(0).permutation([False, True] * 40)
    batch = model.tokenize([f"t{3 + i} t{90 - i % 7} t{5 + i % 11}" for i in range(80)])
    cache = model.run_with_cache(batch, names_filter=lambda name: name.endswith("resid_post"), return_type=None)[1]
    found = probe_per_layer(cache.stack("resid_post")[:, :, -1].transpose(0, 1), toss.tolist(), groups=range(80))
    assert all(layer.low <= 0.5 <= layer.high for layer in found)


def test_results_are_seeded_and_inputs_left_alone(cloud: Cloud) -> None:
    acts, labels, groups = cloud(shift=1.0, n_groups=20)
    kept = acts.clone()
    first = fit_linear_probe(acts, labels, groups=groups)
    assert first == fit_linear_probe(acts, labels, groups=groups)
    assert first != fit_linear_probe(acts, labels, groups=groups, seed=1)
    assert torch.equal(acts, kept)


def test_a_ready_made_split_is_used_and_may_not_leak(cloud: Cloud) -> None:
    acts, labels, groups = cloud()
    found = fit_linear_probe(acts, labels, groups=groups, train=groups < 40)
    assert (found.n_train, found.n_test, found.n_groups) == (80, 40, 20)
    assert found.auc > 0.9
    with pytest.raises(VestigeError, match="the split leaks"):
        fit_linear_probe(acts, labels, groups=groups, train=torch.arange(120) < 81)


def test_copies_and_two_label_rows_are_refused_unless_allowed(cloud: Cloud) -> None:
    acts, labels, groups = cloud(n_groups=10)
    acts[13] = acts[2]
    with pytest.raises(VestigeError, match=r"rows 2 and 13 .* lie in two labels"):
        fit_linear_probe(acts, labels, groups=groups)
    found = fit_linear_probe(acts, labels, groups=groups, duplicates="allow", draws=1)
    assert (found.n_duplicates, found.n_conflicts) == (2, 2)


def test_identical_activations_score_exactly_chance() -> None:
    acts, labels = torch.ones(40, 5), torch.arange(40) % 2
    found = fit_linear_probe(acts, labels, groups=range(40), duplicates="allow")
    assert (found.auc, found.low, found.high, found.shuffled_auc) == (0.5, 0.5, 0.5, 0.5)
    assert found.random_direction_auc == 0.5


def test_errors(cloud: Cloud) -> None:
    acts, labels, groups = cloud(n_groups=4)
    with pytest.raises(VestigeError, match="penalties above 0"):
        fit_linear_probe(acts, labels, groups=groups, l2=[0.0])
    with pytest.raises(VestigeError, match=r"activations \[n, n_layers, d_model\], got \(8, 8\)"):
        probe_per_layer(acts, labels, groups=groups)
