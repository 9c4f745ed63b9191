"""The probe leak on planted residuals: knowledge, none, shuffled answers, and which facts choose the block."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from hooked import Item, UnlearnData
from tests.vestige.build import by_subject, evidence, reading, split
from vestige.checks.probe import probe_leak
from vestige.evidence import Evidence
from vestige.reading import Reading

D_MODEL, D_VOCAB, N_LAYERS = 24, 60, 3
N_FORGET, N_RETAIN = 40, 120


class Planted:
    """Items with random answers, and residuals that hold the answer's direction as strongly as asked."""

    def __init__(self, seed: int = 0, *, relations: int = 3) -> None:
        self.rng = np.random.default_rng(seed)
        self.W_U = self.rng.normal(size=(D_MODEL, D_VOCAB)).astype(np.float32)
        self.turn = np.linalg.qr(self.rng.normal(size=(D_MODEL, D_MODEL)))[0]
        # As in the world of facts: forget answers occur in no retained fact.
        self.forget = self.rng.integers(0, 20, N_FORGET)
        self.retain = self.rng.integers(20, D_VOCAB, N_RETAIN)
        self.data = UnlearnData(
            tuple(Item(f"f{i}", f"a{t}", relation=f"r{i % relations}") for i, t in enumerate(self.forget)),
            tuple(Item(f"k{i}", f"a{t}", relation=f"r{i % relations}") for i, t in enumerate(self.retain)),
        )

    def hidden(self, tokens: np.ndarray, strengths: tuple[float, ...]) -> np.ndarray:
        signal = (self.W_U[:, tokens].T @ self.turn)[:, None] * np.array(strengths)[None, :, None]
        return (signal + self.rng.normal(size=(len(tokens), len(strengths), D_MODEL))).astype(np.float32)

    def reading(self, forget: tuple[float, ...], retain: tuple[float, ...]) -> Reading:
        """A subject that holds both kinds of answers with these strengths, layer by layer."""
        said = split([0.5] * N_FORGET, labels=self.forget.tolist(), hidden=self.hidden(self.forget, forget))
        kept = split([0.5] * N_RETAIN, labels=self.retain.tolist(), hidden=self.hidden(self.retain, retain))
        return reading(said, retain=kept)

    def evidence(self, seed: int = 0, **subjects: tuple[tuple[float, ...], tuple[float, ...]]) -> Evidence:
        made = {name: self.reading(*strengths) for name, strengths in subjects.items()}
        return evidence(made, data=self.data, W_U=torch.from_numpy(self.W_U), seed=seed)


KNOWS, HALF, NOTHING = (0.0, 1.0, 1.0), (0.0, 0.0, 1.0), (0.0, 0.0, 0.0)


def test_planted_knowledge_is_found_and_none_is_chance() -> None:
    found = by_subject(
        probe_leak(Planted().evidence(original=(KNOWS, KNOWS), edited=(NOTHING, KNOWS), never=(NOTHING, KNOWS)))
    )
    assert found["original"].estimate is not None
    assert found["original"].estimate > 0.9
    for name in ("edited", "never"):
        assert found[name].estimate == pytest.approx(0.5, abs=0.12)
        assert found[name].control == found["never"].estimate
    assert {(r.n, r.floor, r.higher_is) for r in found.values()} == {(N_FORGET, 0.5, "leaky")}


def test_answers_that_the_probe_was_never_taught_lose_nothing_by_it() -> None:
    # The probe learns on retained answers alone, which would beat any other token if scores were taken as they are.
    results = [probe_leak(Planted(seed).evidence(original=(NOTHING, KNOWS)))[0] for seed in range(12)]
    assert np.mean([r.estimate for r in results]) == pytest.approx(0.5, abs=0.04)
    # Of twelve 95 % intervals, hardly more than two miss.
    assert sum((r.low or 0) < 0.5 < (r.high or 0) for r in results) >= 10


def test_shuffled_answers_are_at_chance() -> None:
    note = probe_leak(Planted().evidence(original=(KNOWS, KNOWS)))[0].note
    shuffled = float(note.split("with shuffled answers ")[1].split(";")[0])
    assert shuffled == pytest.approx(0.5, abs=0.1)


def test_a_model_that_knows_nothing_at_all_gives_no_number_to_lean_on() -> None:
    result = probe_leak(Planted().evidence(original=(NOTHING, NOTHING)))[0]
    assert result.estimate is None
    assert "hardly reads even retained facts" in result.note


def test_the_forget_items_do_not_choose_the_block() -> None:
    # Retained facts are readable at block 2 alone, forgotten ones at block 1 alone: block 2 is shown.
    given = Planted().evidence(original=((0.0, 1.0, 0.0), (0.0, 0.3, 1.0)))
    result = probe_leak(given)[0]
    assert result.note.startswith("block 2")
    assert result.per_layer is not None
    assert result.estimate == pytest.approx(result.per_layer[2])
    assert result.per_layer[1] > result.per_layer[2] + 0.2


def test_hidden_answers_do_not_change_what_the_probe_learns() -> None:
    # Two subjects with the same residuals on retained facts get the same block and the same rate there.
    planted = Planted()
    given = planted.evidence(original=(KNOWS, KNOWS))
    other = replace(
        given.original, forget=replace(given.original.forget, hidden=planted.hidden(planted.forget, NOTHING))
    )
    notes = [r.note for r in probe_leak(replace(given, readings={"original": given.original}))]
    blind = probe_leak(replace(given, readings={"original": other}))
    assert notes[0].split(",")[0] == blind[0].note.split(",")[0]


def test_pushed_down_answers_are_flagged() -> None:
    result = probe_leak(Planted().evidence(original=((0.0, -1.0, -1.0), KNOWS)))[0]
    assert result.estimate is not None
    assert result.estimate < 0.2
    assert "clearly below chance" in result.note


def test_the_same_seed_gives_the_same_numbers() -> None:
    given = Planted().evidence(original=(HALF, KNOWS))
    assert probe_leak(given) == probe_leak(given)


def test_answers_that_all_begin_alike_cannot_be_asked() -> None:
    planted = Planted()
    planted.forget[:] = 1
    planted.retain[:] = 1
    result = probe_leak(planted.evidence(original=(KNOWS, KNOWS)))[0]
    assert result.estimate is None
    assert "got 0 and 0" in result.note


def test_a_lesson_of_one_answer_is_a_reason_and_no_error() -> None:
    planted = Planted()
    planted.retain[:] = 30
    result = probe_leak(planted.evidence(original=(KNOWS, KNOWS)))[0]
    assert result.estimate is None
    assert "all begin alike" in result.note


def test_relations_of_one_item_are_not_asked() -> None:
    planted = Planted()
    alone = tuple(replace(item, relation=f"only {i}") for i, item in enumerate(planted.data.forget[:10]))
    planted.data = UnlearnData(alone + planted.data.forget[10:], planted.data.retain)
    assert probe_leak(planted.evidence(original=(KNOWS, KNOWS)))[0].n == N_FORGET - 10


def test_without_retain_items_there_is_a_reason() -> None:
    result = probe_leak(evidence({"original": reading([0.5] * 3)}))[0]
    assert (result.estimate, result.floor) == (None, 0.5)
    assert "no retain items" in result.note
