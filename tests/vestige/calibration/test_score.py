"""The residual knowledge score: fitted on made-up pools whose truth is known."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hooked import VestigeError
from vestige.calibration.score import OF, ResidualScore, choose_penalty, fit_residual_score

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


def test_a_missing_share_is_taken_to_agree_and_the_loudest_is_named() -> None:
    score = ResidualScore(("depth", "probe"), (4.0, 2.0), -3.0)
    found = score({"depth": 0.6, "probe": None})
    assert found.probability == score({"depth": 0.6, "probe": 0.6}).probability
    assert found.probability == pytest.approx(1 / (1 + np.exp(3 - 0.6**0.5 * 6)))
    assert found.score == pytest.approx(0.6**0.5)
    assert found.loudest == "depth"
    assert found.abstains
    # What little the others hear is not made more of by what is not there.
    assert score({"depth": 0.0}).probability == score({"depth": 0.0, "probe": 0.0}).probability < 0.05
    assert not score({"depth": 1.0, "probe": 1.0}).abstains
    with pytest.raises(VestigeError, match="at least one of depth, probe"):
        score({"depth": None})


def test_the_score_is_the_mean_root_of_the_shares_by_weight() -> None:
    score = ResidualScore(("depth", "probe", "deaf"), (3.0, 1.0, 0.0), -2.0)
    found = score({"depth": 0.8, "probe": 0.4, "deaf": 1.0})
    assert found.score == pytest.approx((3 * 0.8**0.5 + 0.4**0.5) / 4)
    assert found.missing == ()
    # The sure half is enough for a claim, the other is not, however sure it looks.
    sure = ResidualScore(("depth", "probe"), (30.0, 20.0), -10.0)
    assert not sure({"depth": 1.0}).abstains
    assert sure({"probe": 1.0}).probability > 0.9
    assert sure({"probe": 1.0}).abstains
    assert sure({"probe": 1.0}).missing == ("depth",)


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
    assert ResidualScore.from_json(json.loads(json.dumps(score.to_json()))) == score
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
