"""Relation neighbours on planted states: kinds that lie together, kinds that were scattered, kinds that are none."""

from __future__ import annotations

import numpy as np
import pytest

from hooked import Item, UnlearnData
from tests.vestige.build import by_subject, evidence, reading, split
from vestige.checks.neighbours import relation_neighbours
from vestige.evidence import Evidence

N_FORGET, N_RETAIN, KINDS, D = 8, 48, 4, 10


def planted(
    *, relations: bool = True, subjects: int = 12, n: int = N_RETAIN, **strength: tuple[float, float]
) -> Evidence:
    """Subjects whose states hold the relation this strongly, in forget and in retain prompts."""
    rng = np.random.default_rng(0)
    axes = rng.normal(size=(KINDS, D))

    def made(n_items: int, strong: float) -> np.ndarray:
        kinds = axes[np.arange(n_items) % KINDS]
        return np.stack([strong * kinds + 0.3 * rng.normal(size=(n_items, D)) for _ in range(2)], axis=1)

    def items(n_items: int, first: str) -> tuple[Item, ...]:
        return tuple(
            Item(
                f"{first}{i}",
                "a",
                relation=f"r{i % KINDS}" if relations else None,
                subject=f"{first} of {i // KINDS % subjects}" if subjects else "one",
            )
            for i in range(n_items)
        )

    readings = {
        name: reading(
            split([0.5] * N_FORGET, hidden=made(N_FORGET, forget)),
            retain=split([0.5] * n, hidden=made(n, retain)),
        )
        for name, (forget, retain) in strength.items()
    }
    return evidence(readings, data=UnlearnData(items(N_FORGET, "f"), items(n, "k")))


def test_whole_and_damaged_representations() -> None:
    found = by_subject(relation_neighbours(planted(original=(1, 1), aimed=(0, 1), broken=(0, 0), never=(1, 1))))
    assert found["original"].estimate == pytest.approx(1.0, abs=0.05)
    assert found["aimed"].estimate == pytest.approx(1.0, abs=0.05)
    assert found["broken"].estimate == pytest.approx(1 / KINDS, abs=0.15)
    for result in found.values():
        assert result.floor == pytest.approx(1 / KINDS, abs=0.1)
        assert (result.n, result.higher_is, len(result.per_layer or ())) == (N_RETAIN, "useful", 2)
        assert result.control == found["never"].estimate
    assert found["original"].note == "of the forget prompts 1.00"
    assert float(found["aimed"].note.split()[-1]) < 0.7


@pytest.mark.parametrize("settings", [{"relations": False}, {"subjects": 0}, {"n": 16}])
def test_no_relations_one_subject_or_few_items_are_reasons(settings: dict[str, int]) -> None:
    (result,) = relation_neighbours(planted(original=(1, 1), **settings))  # type: ignore[arg-type]
    assert result.estimate is None
    assert "needs at least 20 retain items" in result.note


def test_without_retain_items_there_is_a_reason() -> None:
    (result,) = relation_neighbours(evidence({"original": reading([0.5] * 3)}))
    assert result.estimate is None
    assert "got 0" in result.note
