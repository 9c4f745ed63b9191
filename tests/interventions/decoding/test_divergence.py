"""Jensen-Shannon divergence: reference values, its theorems, and the other quantity that the release computes."""

from __future__ import annotations

from math import log

import pytest
import torch

from interventions.decoding.divergence import furthest, jensen_shannon, reversed_jensen_shannon

P = torch.tensor([0.7, 0.2, 0.1], dtype=torch.float64).log()
Q = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log()


def test_reference_values() -> None:
    assert jensen_shannon(P, Q).item() == pytest.approx(0.132918, abs=1e-6)
    assert reversed_jensen_shannon(P, Q).item() == pytest.approx(0.147330, abs=1e-6)


def test_it_is_symmetric_zero_for_equals_and_at_most_log_2(rng: torch.Generator) -> None:
    p, q = (torch.randn(200, 9, generator=rng, dtype=torch.float64).mul(4).log_softmax(-1) for _ in range(2))
    values = jensen_shannon(p, q)
    torch.testing.assert_close(values, jensen_shannon(q, p), atol=1e-14, rtol=0)
    assert (jensen_shannon(p, p).abs() < 1e-15).all()
    assert (values > 0).all()
    assert (values < log(2)).all()
    apart = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64).log()
    assert jensen_shannon(apart[0], apart[1]).item() == pytest.approx(log(2))


def test_the_released_quantity_picks_another_of_four_candidates_in_about_a_fifth_of_cases(rng: torch.Generator) -> None:
    final = torch.randn(2000, 50, generator=rng, dtype=torch.float64).log_softmax(-1)
    early = [torch.randn(2000, 50, generator=rng, dtype=torch.float64).log_softmax(-1) for _ in range(4)]
    true, released = furthest(final, early), furthest(final, early, divergence="released")
    other = (true != released).any(-1).double().mean().item()
    assert 0.15 < other < 0.3


def test_each_row_and_position_has_its_own_furthest(rng: torch.Generator) -> None:
    final = torch.randn(3, 4, 6, generator=rng, dtype=torch.float64).log_softmax(-1)
    early = [torch.randn(3, 4, 6, generator=rng, dtype=torch.float64).mul(3).log_softmax(-1) for _ in range(5)]
    which = torch.stack([jensen_shannon(final, candidate) for candidate in early]).argmax(0)
    assert len(which.unique()) > 2
    wanted = torch.stack(early).gather(0, which[None, ..., None].expand(1, 3, 4, 6))[0]
    assert torch.equal(furthest(final, early), wanted)


def test_the_furthest_of_some_may_come_at_any_place() -> None:
    assert torch.equal(furthest(P, [Q, P]), Q)
    assert torch.equal(furthest(P, [P, Q]), Q)
    assert torch.equal(furthest(P, iter([Q])), Q)
