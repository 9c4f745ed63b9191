"""Which fitted score is used, and when nothing is claimed."""

from __future__ import annotations

import numpy as np
import pytest

from vestige.calibration.conclude import concluded
from vestige.calibration.score import ResidualScore, fit_residual_score

NAMES = ("lens_leak", "attack:a", "attack:b")


@pytest.fixture(scope="module")
def scores() -> dict[str, ResidualScore]:
    knows = np.arange(60) % 2 == 0
    level = np.where(knows, 0.8, 0.0)
    noise = np.random.default_rng(0).normal(0, 0.05, 60)
    shares = np.stack([level + noise, level, level * 0.3 - noise], 1)
    fit = {kind: fit_residual_score(shares[:, :n], knows, NAMES[:n], penalty=0.1) for kind, n in (("checks", 1),)}
    return {**fit, "quick": fit_residual_score(shares, knows, NAMES, penalty=0.1)}


def test_attacks_are_heard_from_half_of_their_weight_on(scores: dict[str, ResidualScore]) -> None:
    _, a, b = scores["quick"].weights
    assert a > b > 0

    def kind(**shares: float | None) -> str:
        found = concluded(scores, {name.replace("attack_", "attack:"): share for name, share in shares.items()})
        assert found is not None
        return found[0]

    assert kind(lens_leak=0.0, attack_a=0.0, attack_b=0.0) == "quick"
    assert kind(lens_leak=0.0, attack_a=0.0, attack_b=None) == "quick"
    assert kind(lens_leak=0.0, attack_b=0.0) == "checks"
    assert kind(lens_leak=0.0) == "checks"


@pytest.mark.parametrize(("lens", "abstains"), [(0.0, True), (0.1, True), (1.0, False)])
def test_without_attacks_nothing_is_called_gone(scores: dict[str, ResidualScore], lens: float, abstains: bool) -> None:
    found = concluded(scores, {"lens_leak": lens})
    assert found is not None
    assert (found[1].probability > 0.9, found[1].abstains) == (not abstains, abstains)
    attacked = concluded(scores, dict.fromkeys(NAMES, 0.0))
    assert attacked is not None
    assert attacked[1].probability < 0.1
    assert not attacked[1].abstains


def test_nothing_is_said_of_nothing(scores: dict[str, ResidualScore]) -> None:
    assert concluded(scores, {"attack:b": 0.5, "lens_leak": None}) is None
    assert concluded(scores, {}) is None
