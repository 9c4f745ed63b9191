"""Survival of an SAE's latents: the AUC beside floor and control, and what an SAE that lost the states cannot say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.vestige import build
from vestige.checks.latents import latent_survival
from vestige.evidence import Evidence
from vestige.intrinsic.latents import LatentReading, Survival
from vestige.result import Result


def reading(auc: float, *, matched: float = 0.5, explained: float = 0.95) -> LatentReading:
    """Two latents on six items, which differ a little."""
    around = np.array([-0.02, 0.01, 0.0, -0.01, 0.02, 0.0])
    return LatentReading(np.stack([auc + around, auc - around]), np.full((8, 6), matched), explained)


def evidence(**subjects: Survival | str) -> Evidence:
    bare = build.evidence({name: build.reading([0.5] * 6) for name in ("original", "edited", "never")})
    known = Survival(reading(0.95), reading(0.95))
    never = Survival(reading(0.55, explained=0.4), reading(0.55, explained=0.4))
    return replace(bare, latents={"original": known, "never": never, **subjects})


def of(found: Evidence, check: str, subject: str = "edited") -> Result:
    return build.by_subject(latent_survival(found), check)[subject]


def test_the_score_stands_beside_matched_latents_and_the_control() -> None:
    silenced = Survival(reading(0.6, matched=0.45), reading(0.95))
    found = evidence(edited=silenced)
    view, raw = of(found, "latent_survival"), of(found, "raw_latent_survival")
    assert view.estimate == pytest.approx(0.6)
    assert (view.floor, view.control, view.n) == (pytest.approx(0.45), pytest.approx(0.55), 6)
    assert raw.estimate == pytest.approx(0.95)
    assert view.per_item == pytest.approx([0.6] * 6)
    assert "2 latents; the SAE explains 0.95 of the variance" in view.note
    explained = of(found, "sae_explained_variance")
    assert (explained.estimate, explained.control, explained.floor) == (0.95, 0.4, 0.0)


def test_an_sae_that_lost_the_states_cannot_say_that_a_latent_died() -> None:
    lost = of(evidence(edited=Survival(reading(0.5, explained=0.3), reading(0.5, explained=0.3))), "latent_survival")
    assert lost.estimate is None
    assert "explains 0.30 of the variance of these states (below 0.7), so a silent latent may be a state" in lost.note
    # What is clearly there is there, however badly the rest is reconstructed.
    there = of(evidence(edited=Survival(reading(0.9, explained=0.3), reading(0.9, explained=0.3))), "latent_survival")
    assert there.estimate == pytest.approx(0.9)
    whole = of(evidence(edited=Survival(reading(0.5), reading(0.5))), "latent_survival")
    assert whole.estimate == pytest.approx(0.5)


def test_references_keep_their_value_with_the_flag() -> None:
    never = of(evidence(edited="no site"), "latent_survival", "never")
    assert never.estimate == pytest.approx(0.55)
    assert "below 0.7" in never.note


def test_a_reason_is_given_and_without_an_sae_there_is_no_row() -> None:
    found = evidence(edited="no site 'blocks.9.hook_resid_post'")
    for check in ("latent_survival", "raw_latent_survival", "sae_explained_variance"):
        assert of(found, check).estimate is None
        assert of(found, check).note == "no site 'blocks.9.hook_resid_post'"
    assert latent_survival(replace(found, latents={})) == []
