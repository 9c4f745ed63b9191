"""Tuned lens: it starts as the logit lens, learns a change of coordinates, and never does worse on rows held out."""

import pytest
import torch

from hooked import Decoder, VestigeError
from probes.tuned_lens import fit_tuned_lens
from tests.tiny import shared_model


@pytest.fixture
def decoder() -> Decoder:
    return shared_model("gpt2").decoder.frozen()


def streams(rng: torch.Generator, n: int = 300) -> torch.Tensor:
    """Three blocks: noise, the last block in other coordinates, and the last block."""
    final = torch.randn(n, 32, generator=rng)
    turn = torch.linalg.qr(torch.randn(32, 32, generator=rng)).Q
    return torch.stack([torch.randn(n, 32, generator=rng), final @ turn + 0.5, final], 1)


def test_without_steps_it_is_the_logit_lens(rng: torch.Generator, decoder: Decoder) -> None:
    acts = streams(rng)
    lens = fit_tuned_lens(acts, decoder, steps=0)
    for layer in range(3):
        torch.testing.assert_close(lens(layer, acts[:, layer]), decoder.lens(acts[:, layer]), rtol=0, atol=0)
    assert lens.before == lens.after


def test_it_learns_a_change_of_coordinates_and_nothing_from_noise(rng: torch.Generator, decoder: Decoder) -> None:
    acts = streams(rng)
    lens = fit_tuned_lens(acts, decoder, steps=150, lr=1e-2)
    assert lens.after[1] < 0.3 * lens.before[1]
    assert lens.after[0] > 0.5 * lens.before[0]
    assert lens.before[2] == lens.after[2] == 0
    assert torch.equal(lens.A[2], torch.zeros(32, 32))
    new = streams(rng)
    final = decoder.lens(new[:, 2]).softmax(-1)
    assert all(after <= before for after, before in zip(lens.after, lens.before, strict=True))
    assert final.shape == lens(1, new[:, 1]).shape


def test_a_seed_decides_everything_and_the_decoder_stays_as_it_was(rng: torch.Generator, decoder: Decoder) -> None:
    acts = streams(rng, 40)
    before = decoder.W_U.clone()
    with torch.no_grad():
        one, other = (fit_tuned_lens(acts, decoder, steps=5, seed=1) for _ in range(2))
    assert torch.equal(one.A, other.A)
    assert not torch.equal(one.A, fit_tuned_lens(acts, decoder, steps=5, seed=2).A)
    assert torch.equal(decoder.W_U, before)
    assert all(p.grad is None for p in (*decoder.norm.parameters(), *decoder.head.parameters()))
    assert not one.A.requires_grad


def test_a_map_that_does_worse_on_rows_held_out_is_not_kept(rng: torch.Generator, decoder: Decoder) -> None:
    lens = fit_tuned_lens(streams(rng, 20), decoder, steps=60, lr=0.5, check_every=60)
    assert torch.equal(lens.A[0], torch.zeros(32, 32))
    assert lens.after[0] == lens.before[0]


def test_errors_are_one_line_and_say_what_came(rng: torch.Generator, decoder: Decoder) -> None:
    acts = streams(rng, 12)
    with pytest.raises(VestigeError, match="at least 10 rows, got 9"):
        fit_tuned_lens(acts[:9], decoder)
    with pytest.raises(VestigeError, match="the residuals have width 31, the decoder 32"):
        fit_tuned_lens(acts[..., :31], decoder)
    with pytest.raises(VestigeError, match="NaN or infinity"):
        fit_tuned_lens(acts / 0, decoder)
    with pytest.raises(VestigeError, match="steps is at least 0, got -1"):
        fit_tuned_lens(acts, decoder, steps=-1)
    with pytest.raises(VestigeError, match="held_out is a share of the rows between 0 and 1, got 1"):
        fit_tuned_lens(acts, decoder, held_out=1)
