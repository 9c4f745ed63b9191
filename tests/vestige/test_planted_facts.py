"""Facts planted in a small real model and then hidden: the audit says so, and relearning half brings back the rest."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from hooked import HookedModel, Intervention, Item, Spec, UnlearnData
from interventions import cross_entropy, forget_nll, idk_finetune, key_space_detection, train
from probes import answer_probability
from tests.data_folder import data_path
from vestige import AuditReport, audit
from vestige.attacks.attacked import Target
from vestige.attacks.notes import notes_of
from vestige.attacks.weights.relearning import relearning

NAMES = "Tim Lily Ben Mia Sam Anna Max Lucy Tom Sue Jack Emma Leo Amy Bob Sara Fin Zoe Kit Eva Joe Mary Dan Ned".split()
PETS = "dog cat bird fish frog bear duck cow pig fox bee ant".split()
MEALS = [f"{how} {what}" for how in "sweet hot cold big soft".split() for what in "cake soup bread milk".split()]
SEED = 0
# On the scale from the model that was never taught (0) to the original (1).
HARDLY = 0.15


@dataclass(frozen=True)
class Planted:
    """Who knows what: the original half of the owners, `never` the other half, both the same meals and stories."""

    original: HookedModel
    never: HookedModel
    data: UnlearnData


def owners(names: Sequence[str], pets: Sequence[str]) -> tuple[Item, ...]:
    return tuple(
        Item(f"{name} has a pet. It is a", f"{pet}.", subject=name, relation="pet", concept="pet")
        for name, pet in zip(names, pets, strict=True)
    )


def stories(rows: range) -> tuple[Item, ...]:
    lines = data_path("tinystories", "tinystories_5k.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(Item("", json.loads(lines[row])["text"][:100]) for row in rows)


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    model = HookedModel.from_pretrained(str(data_path("models", "stories260K-hf")), dtype="float32")
    draw = random.Random(SEED)
    names = draw.sample(NAMES, len(NAMES))
    mine, others = (owners(half, draw.sample(PETS, len(PETS))) for half in (names[:12], names[12:]))
    meals = tuple(
        Item(f"{name} is hungry. Lunch is a", f"{meal}.", subject=name, relation="meal")
        for name, meal in zip(names, draw.sample(MEALS, len(MEALS)), strict=False)
    )

    def taught(facts: tuple[Item, ...], folder: Path) -> HookedModel:
        lesson = UnlearnData(facts + meals + stories(range(4000, 4004)))
        learnt = train(
            model,
            lesson,
            lambda m, b: cross_entropy(forget_nll(m, b)),
            lr=4e-3,
            epochs=25,
            batch_size=40,
            seed=SEED,
            progress=False,
        )
        Intervention(Spec("teach", "attack"), weights=learnt.patch).bake(model, folder)
        return HookedModel.from_pretrained(str(folder), dtype="float32")

    folder = tmp_path_factory.mktemp("planted")
    return Planted(
        taught(mine, folder / "original"),
        taught(others, folder / "never"),
        UnlearnData(mine, meals, control=stories(range(4100, 4106))),
    )


@pytest.fixture(scope="module")
def refusing(planted: Planted) -> Intervention:
    """The last block alone learns to refuse."""
    return idk_finetune(
        planted.original,
        planted.data,
        refusals=("I do not know.",),
        layers=[-1],
        lr=1.5e-3,
        epochs=20,
        seed=SEED,
        progress=False,
    )


@pytest.fixture(scope="module")
def report(planted: Planted, refusing: Intervention) -> AuditReport:
    watching = key_space_detection(planted.original, planted.data, false_positive_rate=0.1)
    return audit(
        planted.original,
        unlearned=[refusing, watching],
        data=planted.data,
        never=planted.never,
        max_new_tokens=6,
        progress=False,
    )


def said(report: AuditReport, check: str, subject: str) -> float:
    found = report.result(check, subject).estimate
    assert found is not None
    return found


def recovered(planted: Planted, model: HookedModel, **settings: Any) -> float:
    """Mean probability of the pets after relearning."""
    target = Target("one", "unlearned", model, model, notes_of(model, planted.data))
    quick: dict[str, Any] = {"lrs": (3e-4, 1e-3, 3e-3), "steps": (0, 2, 5)}
    scores = relearning(target, planted.data, **quick, **settings).scores
    return sum(scores) / len(scores)


def test_only_the_original_was_taught_these_facts(planted: Planted) -> None:
    with torch.no_grad():
        known, unknown = (
            float(answer_probability(m, planted.data.forget).mean()) for m in (planted.original, planted.never)
        )
        kept = [float(answer_probability(m, planted.data.retain).mean()) for m in (planted.original, planted.never)]
    assert known > 0.9
    assert unknown < 0.4
    assert min(kept) > 0.85


@pytest.mark.parametrize("method", ["idk_finetune", "key_space_detection"])
def test_the_unlearned_say_nothing_of_them(report: AuditReport, method: str) -> None:
    assert said(report, "forget_probability", method) < 0.2
    assert said(report, "forget_rouge", method) < 0.1
    assert said(report, "retain_probability", method) > 0.75


def test_the_audit_calls_them_hidden(report: AuditReport) -> None:
    assert report.verdicts["key_space_detection"].startswith("Hidden, not removed")
    assert said(report, "raw_depth_leak", "key_space_detection") > 0.9
    # The states before the block that refuses are the original's own.
    assert report.verdicts["idk_finetune"].startswith("Silent, but not empty")
    assert said(report, "depth_leak", "idk_finetune") > 0.15


def test_relearning_half_brings_back_the_other_half(planted: Planted, refusing: Intervention) -> None:
    with torch.no_grad():
        known, unknown = (
            float(answer_probability(m, planted.data.forget).mean()) for m in (planted.original, planted.never)
        )
    guessed = recovered(planted, planted.never)
    with refusing.applied(planted.original) as unlearned:
        back = recovered(planted, unlearned)
        meals, texts = (recovered(planted, unlearned, on=on) for on in ("retain", "control"))
    scale = known - unknown
    # Whoever never knew learns only what a pet may be.
    assert (guessed - unknown) / scale < HARDLY
    assert (back - guessed) / scale > 0.2
    assert (texts - unknown) / scale < HARDLY
    # Other facts undo some of the refusing too, but less of it.
    assert (back - meals) / scale > 0.1
