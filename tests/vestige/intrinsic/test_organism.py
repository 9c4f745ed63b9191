"""Depth where the facts are known to be: a model that was taught them, two that were not, and a switch in between."""

from __future__ import annotations

import pytest

from hooked import HookedModel
from tests.vestige.intrinsic.test_patching import noisy, patched
from vestige import organism
from vestige.intrinsic.depth import depth
from vestige.intrinsic.patched import Patched
from vestige.intrinsic.spans import answer_spans


@pytest.fixture(scope="module")
def falls() -> dict[str, Patched]:
    data = organism.organism_data()
    models = {
        name: HookedModel.from_pretrained(organism.organism_path(name), dtype="float32")
        for name in ("full", "retain", "never")
    }
    full = models["full"]
    spans = answer_spans(full, data.forget)
    return {name: patched(s, full, spans) for name, s in {**models, "switch": noisy(layer=4)}.items()}


def test_states_of_models_that_never_learnt_it_take_the_answers_away(falls: dict[str, Patched]) -> None:
    assert not falls["full"].view.any()
    for name in ("retain", "never"):
        # In nats of the mean answer token, and more the higher the block.
        mean = falls[name].view.mean(-1)
        assert mean[-1] > 3
        assert mean[0] < mean[1] < mean[3]


@pytest.mark.parametrize("twin", ["view", "lens"])
def test_a_switch_erases_little_and_another_training_run_most(falls: dict[str, Patched], twin: str) -> None:
    def score(name: str) -> float:
        found = depth(getattr(falls["retain"], twin), getattr(falls[name], twin))
        assert found.estimate is not None
        assert found.skipped == 0
        return found.estimate

    assert (score("full"), score("retain")) == (0.0, 1.0)
    # The control: never taught, yet below 1, since two runs lack the facts in different ways.
    assert 0.6 < score("never") < 0.95
    assert 0 < score("switch") < 0.4
    assert not falls["switch"].raw.any()
