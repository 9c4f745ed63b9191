"""Scores that are no numbers: one broken setting or model takes nothing else along."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hooked import UnlearnData
from tests.tiny import tiny_model
from tests.vestige.attacks.contract import facts
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.catalogue import chosen
from vestige.attacks.most_leaking import most_leaking
from vestige.attacks.notes import notes_of
from vestige.attacks.run import run_attacks
from vestige.calibration.score import fit_residual_score


@pytest.mark.parametrize("settings", [(math.nan, 0.9, 0.1), (0.1, math.nan, 0.9), (0.9, math.inf, math.nan)])
def test_a_setting_that_breaks_the_model_is_never_the_best(settings: tuple[float, ...]) -> None:
    best, _ = most_leaking(settings, lambda level: Attacked((level, level), budget={"queries": 1}))
    assert best == 0.9


def test_a_model_of_nan_gives_a_reason_and_no_numbers() -> None:
    model, data = tiny_model("llama"), UnlearnData(facts().forget, facts().retain)
    notes = notes_of(model, data, batch_size=8)
    with torch.no_grad():
        next(p for p in model.model.parameters() if p.ndim == 2).fill_(math.nan)
    rows = chosen(None, ["affirmative_prefix", "stripped"])
    found = run_attacks(Target("x", "unlearned", model, model, notes), data, rows, batch_size=8, seed=0)
    for name in ("plain", "affirmative_prefix", "stripped"):
        assert isinstance(found[name], str)
        assert "NaN or infinite; did the model diverge?" in str(found[name])


def test_a_share_that_is_no_number_counts_as_missing() -> None:
    knows = np.array([True, False] * 4)
    score = fit_residual_score(np.stack([knows, knows], 1).astype(float), knows, ("a", "b"))
    found = score({"a": math.nan, "b": 1.0})
    assert found.missing == ("a",)
    assert found == score({"a": None, "b": 1.0})
