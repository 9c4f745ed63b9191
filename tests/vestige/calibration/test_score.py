"""The residual knowledge score: fitted on made-up pools whose truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hooked import VestigeError
from vestige.calibration.score import OF, Models, ResidualScore, choose_penalty, fit_residual_score
from vestige.metrics.meta import calibration_error

NAMES = ("depth", "probe", "noise")


def pool(n: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Shares of models: the first two instruments see the knowledge, the third is a coin."""
    rng = np.random.default_rng(seed)
    knows = np.arange(n) % 2 == 0
    shares = np.stack([knows * 0.7 + rng.normal(0, 0.2, n), knows * 0.5 + rng.normal(0, 0.2, n), rng.random(n)], 1)
    return shares, knows


def test_it_tells_models_that_know_and_is_calibrated_on_others() -> None:
    score = fit_residual_score(*pool(), NAMES)
    shares, knows = pool(seed=1)
    stated = np.array([score(dict(zip(NAMES, row, strict=True))).probability for row in shares])
    assert stated[knows].mean() > 0.8
    assert stated[~knows].mean() < 0.2
    assert abs(stated.mean() - knows.mean()) < 0.03


def test_more_evidence_never_means_less_knowledge() -> None:
    shares, knows = pool()
    shares[:, 2] = 1 - knows
    score = fit_residual_score(shares, knows, NAMES)
    # An instrument that points the wrong way is not listened to, instead of turned round.
    assert score.weights[2] == 0
    assert min(score.weights) >= 0


def test_shuffled_truth_leaves_nothing_to_say() -> None:
    shares, knows = pool()
    shuffled = np.random.default_rng(2).permutation(knows)
    score = fit_residual_score(shares, shuffled, NAMES, penalty=10)
    found = [score(dict(zip(NAMES, row, strict=True))) for row in shares]
    assert all(0.3 < one.probability < 0.7 and one.abstains for one in found)


def test_shares_outside_the_scale_count_as_its_ends() -> None:
    score = fit_residual_score(*pool(), NAMES)
    inside, outside = score({"depth": 1.0, "probe": 0.0}), score({"depth": 7.0, "probe": -3.0})
    assert inside.probability == outside.probability


def test_the_loudest_is_named_and_what_lies_between_is_no_claim() -> None:
    score = ResidualScore(("depth", "probe"), (4.0, 2.0), -3.0)
    found = score({"depth": 0.6, "probe": 0.1})
    assert found.probability == pytest.approx(1 / (1 + np.exp(3 - 4 * 0.6**0.5 - 2 * 0.1**0.5)))
    assert found.loudest == "depth"
    assert found.abstains
    assert not score({"depth": 1.0, "probe": 1.0}).abstains
    assert score({"depth": 0.0, "probe": 0.0}).loudest is None


def test_what_is_missing_is_left_out_of_the_fit() -> None:
    shares, knows = pool()
    score, alone = fit_residual_score(shares, knows, NAMES), fit_residual_score(shares[:, :1], knows, NAMES[:1])
    for share in (0.0, 0.2, 0.7):
        found, plain = score({"depth": share, "probe": None}), alone({"depth": share})
        assert (found.score, found.probability) == (pytest.approx(plain.score), pytest.approx(plain.probability))
        assert found.missing == ("probe", "noise")
    # Two instruments that say the same are surer than one, which the other does not make up for.
    both = score({"depth": 0.0, "probe": 0.0, "noise": 0.5}).probability
    assert both < score({"depth": 0.0, "noise": 0.5}).probability
    with pytest.raises(VestigeError, match="at least one of depth, probe, noise"):
        score({"depth": None})
    with pytest.raises(VestigeError, match="have no shares of probe"):
        ResidualScore(NAMES, (4.0, 2.0, 1.0), -3.0, models=Models((True, False), {"depth": (1.0, 0.0)}))(
            {"depth": 0.5, "probe": 0.5}
        )
    with pytest.raises(VestigeError, match="does not say what it was fitted on needs probe"):
        ResidualScore(("depth", "probe"), (4.0, 2.0), -3.0)({"depth": 0.5})


def test_what_is_left_of_a_score_is_as_unsure_as_it_has_to_be() -> None:
    """One instrument sees everything, the other next to nothing: alone, it must not speak for both."""

    def made(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        rng, knows = np.random.default_rng(seed), np.arange(n) % 2 == 0
        return np.stack([knows.astype(float), np.clip(0.5 + 0.1 * knows + rng.normal(0, 0.2, n), 0, 1)], 1), knows

    score = fit_residual_score(*made(200, 0), ("sharp", "dull"), penalty=0.1)
    shares, knows = made(2000, 1)
    stated = np.array([score({"sharp": None, "dull": dull}).probability for dull in shares[:, 1]])
    assert calibration_error(stated, knows) < 0.08
    assert 0.02 < stated[knows].mean() - stated[~knows].mean() < 0.3
    # The control: as if the missing one had said the same as the other.
    agreeing = 1 / (1 + np.exp(-(score.bias + shares[:, 1] ** 0.5 * sum(score.weights))))
    assert calibration_error(agreeing, knows) > 0.3


def test_the_score_is_the_mean_root_of_the_shares_by_weight() -> None:
    score = ResidualScore(("depth", "probe", "deaf"), (3.0, 1.0, 0.0), -2.0)
    found = score({"depth": 0.8, "probe": 0.4, "deaf": 1.0})
    assert found.score == pytest.approx((3 * 0.8**0.5 + 0.4**0.5) / 4)
    assert found.missing == ()


def test_less_than_half_of_what_is_listened_to_is_not_enough_for_a_claim() -> None:
    knows = np.arange(60) % 2 == 0
    shares = np.stack([knows * 0.9, knows * 0.6], 1)
    score = fit_residual_score(shares, knows, ("loud", "soft"), penalty=0.01)
    assert score.weights[0] > score.weights[1] > 0
    assert not score({"loud": 0.9}).abstains
    assert score({"soft": 0.6}).probability > 0.9
    assert score({"soft": 0.6}).abstains
    assert score({"soft": 0.6}).missing == ("loud",)


def test_the_penalty_is_the_one_that_predicts_groups_left_out() -> None:
    shares, knows = pool(80)
    groups = [n // 10 for n in range(80)]
    clear = choose_penalty(shares, knows, NAMES, groups)
    shuffled = choose_penalty(shares, np.random.default_rng(3).permutation(knows), NAMES, groups)
    # Where there is nothing to learn, it pays to listen less.
    assert clear < 1 <= shuffled


def test_a_little_of_much_is_heard_where_nothing_is_the_rule() -> None:
    """Two instruments leave a tenth of what they find in models that know, and nothing in the others."""
    rng, knows = np.random.default_rng(4), np.arange(80) % 2 == 0
    shares = np.stack([np.where(knows, rng.choice([0.1, 1.0], 80), 0.0)] * 2, 1)
    score = fit_residual_score(shares, knows, ("one", "other"), penalty=0.1)
    assert score({"one": 0.1, "other": 0.1}).probability > 0.8
    assert score({"one": 0.005, "other": 0.0}).probability < 0.2


def test_missing_shares_in_the_pool_are_allowed() -> None:
    shares, knows = pool()
    shares[::7, 1] = np.nan
    score = fit_residual_score(shares, knows, NAMES)
    assert score.weights[0] > 0
    shares[:, 1] = np.nan
    unheard = fit_residual_score(shares, knows, NAMES)
    assert unheard.weights[1] == 0
    assert np.isfinite([*score.weights, score.bias]).all()


def test_the_kinds_weigh_the_same_however_many_there_are() -> None:
    shares, knows = pool(400)
    kept = np.flatnonzero(knows | (np.arange(400) % 8 == 1))
    score = fit_residual_score(shares[kept], knows[kept], NAMES)
    middle = score({"depth": 0.35, "probe": 0.25, "noise": 0.5})
    assert 0.3 < middle.probability < 0.7


def test_it_survives_json() -> None:
    score = fit_residual_score(*pool(), NAMES)
    assert score.models is not None
    models = Models.from_json(json.loads(json.dumps(score.models.to_json())))
    assert ResidualScore.from_json(json.loads(json.dumps(score.to_json())), models) == score
    with pytest.raises(VestigeError, match="not what a residual score was fitted on: 'shares'"):
        Models.from_json({"knows": []})
    with pytest.raises(VestigeError, match="not a residual score: 'weights'"):
        ResidualScore.from_json({"of": OF, "instruments": []})
    with pytest.raises(VestigeError, match="it weighs shares, and this one weighs square roots of shares"):
        ResidualScore.from_json({**score.to_json(), "of": "shares"})


def test_what_cannot_be_fitted_is_said() -> None:
    shares, knows = pool()
    with pytest.raises(VestigeError, match=r"\[200, 2\], got \[200, 3\]"):
        fit_residual_score(shares, knows, NAMES[:2])
    with pytest.raises(VestigeError, match="know and models that do not"):
        fit_residual_score(shares, np.ones(200, dtype=bool), NAMES)
