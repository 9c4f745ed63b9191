from __future__ import annotations

from typing import Any

import pytest
import torch

from hooked import HookedModel, UnlearnData, VestigeError
from interventions import ablate_vectors
from probes import answer_probability
from tests.tiny import tiny_model
from tests.vestige.attacks.contract import AttackContract, facts
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.notes import notes_of
from vestige.attacks.plain import plain
from vestige.attacks.weights.reinjection import reinjection, value_vectors_about

NEURONS = [(0, 3), (1, 7), (1, 20), (2, 0)]


def vectors_of(model: HookedModel) -> dict[tuple[int, int], torch.Tensor]:
    return {(layer, neuron): model.value_vectors(layer)[neuron].clone() for layer, neuron in NEURONS}


class TestIntoTheWeights(AttackContract):
    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        vectors = {neuron: vector + 0.3 for neuron, vector in vectors_of(target.raw).items()}
        return reinjection(target, data, vectors=vectors, **settings)


class TestIntoTheStream(AttackContract):
    arch = "llama"

    def attack(self, target: Target, data: UnlearnData, **settings: Any) -> Attacked:
        return reinjection(target, data, vectors=vectors_of(target.raw), into="stream", **settings)


@pytest.fixture(scope="module")
def original() -> HookedModel:
    return tiny_model("llama", dtype=torch.float64)


def test_what_was_ablated_alone_comes_back_whole(original: HookedModel) -> None:
    data, vectors = facts(), vectors_of(original)
    wanted = answer_probability(original, data.forget).tolist()
    with ablate_vectors(original, NEURONS, mode="zero").applied(original) as view:
        target = Target("ablated", "unlearned", view, view.raw, notes_of(original, data))
        before = plain(target, data).scores
        found = reinjection(target, data, vectors=vectors)
    assert before != pytest.approx(wanted, rel=1e-2)
    assert found.scores == pytest.approx(wanted, rel=1e-5)
    assert found.budget == {"queries": 6, "vectors": 4}


def test_the_original_has_them_already(original: HookedModel) -> None:
    target = Target("original", "original", original, original, notes_of(original, facts()))
    found = reinjection(target, facts(), vectors=vectors_of(original))
    assert found.scores == pytest.approx(plain(target, facts()).scores, rel=1e-9)


def test_the_stream_gets_the_most_leaking_factor(original: HookedModel) -> None:
    target = Target("original", "original", original, original, notes_of(original, facts()))
    found = reinjection(target, facts(), vectors=vectors_of(original), into="stream", alphas=(0.0, 2.0))
    # A factor of 0 changes nothing, so the best is no worse than that.
    assert sum(found.scores) >= sum(plain(target, facts()).scores) - 1e-9
    assert found.budget["queries"] == 3 * 2 * 6


def test_vectors_about_words_are_copies_of_the_originals_rows(original: HookedModel) -> None:
    found = value_vectors_about(original, ["t5", "t6", "t7"], top=3)
    assert len(found) == 3
    for (layer, neuron), vector in found.items():
        assert torch.equal(vector, original.value_vectors(layer)[neuron].float())
        assert vector.data_ptr() != original.value_vectors(layer)[neuron].data_ptr()


def test_errors_name_what_is_missing(original: HookedModel) -> None:
    target = Target("original", "original", original, original, notes_of(original, facts()))
    with pytest.raises(VestigeError, match="give words of the concept"):
        reinjection(target, facts())
    with pytest.raises(VestigeError, match="into is 'weights' or 'stream', got 'cache'"):
        reinjection(target, facts(), vectors=vectors_of(original), into="cache")  # type: ignore[arg-type]
    with pytest.raises(VestigeError, match="needs at least one factor"):
        reinjection(target, facts(), vectors=vectors_of(original), into="stream", alphas=())
    with pytest.raises(VestigeError, match="layer 1 has neurons 0 to 47, got 99"):
        reinjection(target, facts(), vectors={(1, 99): torch.zeros(32)})
