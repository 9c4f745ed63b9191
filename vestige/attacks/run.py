"""Running attacks on one subject, and comparing what they got out of all subjects."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from hooked import UnlearnData, VestigeError
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.catalogue import Attack
from vestige.attacks.plain import plain
from vestige.metrics.bootstrap import Interval, mean_interval
from vestige.metrics.suppression import recovery_gap, recovery_gap_matched
from vestige.result import AttackResult, SubjectInfo

# How far an attack may move the original before its own scale is worth a number.
MOVED = 0.05
_ALONE = "no recovery gap: it needs a model that never learnt the facts (never-taught or retrained)"

Outcome = Attacked | str


def run_attacks(
    target: Target,
    data: UnlearnData,
    attacks: Sequence[Attack],
    *,
    batch_size: int,
    seed: int,
    done: Callable[[str], object] = lambda name: None,
) -> dict[str, Outcome]:
    """Ask a subject plainly and under every attack.

    Args:
        target: The subject.
        data: Prepared items.
        attacks: Rows of the table.
        batch_size: Rows per forward pass.
        seed: Of everything that draws.
        done: Called with the name of each attack before it starts.

    Returns:
        Name to what it got, `plain` first; a text says why an attack could not be run.
    """
    found = {"plain": attempted(target, data, None, batch_size=batch_size, seed=seed)}
    for attack in attacks:
        done(attack.name)
        found[attack.name] = attempted(target, data, attack, batch_size=batch_size, seed=seed)
    return found


def attempted(target: Target, data: UnlearnData, attack: Attack | None, *, batch_size: int, seed: int) -> Outcome:
    """Ask a subject under one attack, or plainly without one; a text says why the attack could not be run.

    Raises:
        VestigeError: The plain question cannot be asked.
    """
    if attack is None:
        return _finite(plain(target, data, batch_size=batch_size, seed=seed))
    try:
        return _finite(function_of(attack)(target, data, batch_size=batch_size, seed=seed))
    except VestigeError as refused:
        return str(refused)


def _finite(found: Attacked) -> Outcome:
    """Turn scores that are no numbers into a reason: one broken model must not take the others' results along."""
    broken = sum(not math.isfinite(score) for score in found.scores)
    return f"{broken} of {len(found.scores)} scores are NaN or infinite; did the model diverge?" if broken else found


def function_of(attack: Attack) -> Callable[..., Attacked]:
    """Import the function of an attack, with the settings of its row in place."""
    own = getattr(import_module(attack.home), attack.name.partition(":")[0])

    def call(target: Target, data: UnlearnData, **given: Any) -> Attacked:
        found: Attacked = own(target, data, **attack.settings, **given)
        return found

    return call


def compared(
    subjects: Sequence[SubjectInfo],
    found: Mapping[str, Mapping[str, Outcome]],
    attacks: Sequence[Attack],
    *,
    seed: int,
) -> tuple[AttackResult, ...]:
    """Return one result per attack and subject, each with the control's score and the recovery gap.

    Args:
        subjects: The columns, original first.
        found: Subject name to what `run_attacks` returned.
        attacks: The rows that were run.
        seed: Of the bootstrap.
    """
    control = next((s.name for kind in ("never", "retrained") for s in subjects if s.kind == kind), None)
    ends = _Ends(found, subjects[0].name, control, seed)
    return tuple(_row(attack, subject.name, ends) for attack in attacks for subject in subjects)


@dataclass(frozen=True)
class _Ends:
    """All outcomes, and whose are the two ends of the scale."""

    found: Mapping[str, Mapping[str, Outcome]]
    original: str
    control: str | None
    seed: int

    def of(self, attack: str, name: str | None) -> Attacked | None:
        outcome = None if name is None else self.found[name][attack]
        return outcome if isinstance(outcome, Attacked) else None


def _row(attack: Attack, name: str, ends: _Ends) -> AttackResult:
    mine, outcome = ends.of(attack.name, name), ends.found[name][attack.name]
    if mine is None:
        return AttackResult(
            attack.name, name, None, access=attack.access, uses_target=attack.uses_target, note=str(outcome)
        )
    mean = mean_interval(mine.scores, seed=ends.seed)
    same = mine.measure == "probability"
    top, bottom = ends.of(attack.name, ends.original), ends.of(attack.name, ends.control)
    base, before = ends.of("plain", name), ends.of("plain", ends.original)
    gap = matched = Interval(None, None, None, None, mean.n, _ALONE)
    if top is not None and bottom is not None:
        matched = recovery_gap_matched(
            unlearned_attacked=mine.scores, control_attacked=bottom.scores, original_attacked=top.scores, seed=ends.seed
        )
        gap = _plain_gap(mine, bottom, ends) if same else matched
    moved = same and top is not None and before is not None and abs(_mean(top) - _mean(before)) > MOVED
    return AttackResult(
        attack.name,
        name,
        mean.estimate,
        mean.low,
        mean.high,
        n=mean.n,
        measure=mine.measure,
        plain=_mean(base) if same and base is not None else None,
        floor=mine.floor,
        control=None if bottom is None else _mean(bottom),
        gap=gap.estimate,
        gap_low=gap.low,
        gap_high=gap.high,
        matched=matched.estimate if moved else None,
        access=attack.access,
        uses_target=attack.uses_target,
        curve=mine.curve,
        per_layer=mine.per_layer,
        per_item=mine.scores,
        budget=mine.budget,
        note="; ".join(filter(None, (mine.note, gap.note))),
    )


def _plain_gap(mine: Attacked, bottom: Attacked, ends: _Ends) -> Interval:
    before, never = ends.of("plain", ends.original), ends.of("plain", ends.control)
    if before is None or never is None:
        return Interval(None, None, None, None, len(mine.scores), _ALONE)
    return recovery_gap(
        unlearned_attacked=mine.scores,
        control_attacked=bottom.scores,
        original=before.scores,
        control=never.scores,
        seed=ends.seed,
    )


def _mean(attacked: Attacked) -> float:
    return sum(attacked.scores) / len(attacked.scores)
