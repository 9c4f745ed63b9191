"""What the instruments are worth on models whose knowledge is known, and what scores fitted on some say of others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float
from scipy.stats import binomtest

from hooked import VestigeError
from vestige.calibration.audits import STATES, WEIGHTS
from vestige.calibration.conclude import concluded
from vestige.calibration.pool import BLOCKS, KNOWING
from vestige.calibration.score import Residual, ResidualScore, choose_penalty, fit_residual_score
from vestige.metrics.meta import (
    Faithfulness,
    calibration_error,
    faithfulness,
    quantisation_robustness,
    relearning_robustness,
)
from vestige.metrics.utility import harmonic_mean
from vestige.shares import CHECKS

# Members that know and say little or nothing of it: hooks on unchanged weights, training to say something else, and
# training of some blocks alone.
HIDDEN = tuple(
    f"{name} ({KNOWING})"
    for name in ("neuron_adjust", "key_space_detection", "eco", "taught to refuse", "taught gibberish", *BLOCKS)
)
# Shares are read to about this; moves below it are noise.
EPSILON = 0.02
# As in published comparisons: a model that lost more of its utility was not made to forget but broken.
KEPT = 0.8
# Of what is tampered with, the model that nobody made to forget, since it never knew.
CONTROL = "never"

# What audits often lack: wordings that the data does not have, texts, whatever reads or steers states, time to train.
LACKING: Mapping[str, tuple[str, ...]] = {
    "questions in other words": ("paraphrase_probability", "attack:reworded"),
    "what is written": ("forget_rouge", "exact_memorization", "extraction_strength"),
    "what looks inside": (
        "lens_leak",
        "probe_leak",
        "depth_leak",
        "raw_depth_leak",
        "lens_depth_leak",
        "attack:lens_attack",
        "attack:steering",
    ),
    "training": ("attack:relearning",),
}

Record = Mapping[str, Any]
Shares = Mapping[str, float | None]
Reader = Callable[[Shares], float | None]


@dataclass(frozen=True)
class Robustness:
    """Whether an instrument stays true when models that were made to forget are tampered with.

    Args:
        relearning: Relearning robustness, mean over models.
        quantisation: Quantisation robustness, likewise.
        n: Models.
    """

    relearning: float
    quantisation: float
    n: int

    @property
    def both(self) -> float:
        """Harmonic mean of the two."""
        return harmonic_mean(np.array([self.relearning, self.quantisation]))


@dataclass(frozen=True)
class Worth:
    """One instrument on the held-out models.

    Args:
        name: Of a check, of an attack (`attack:NAME`), of a fitted score, or `weight_distance`.
        faithfulness: How well it tells models that know; None where it was not measured on both kinds.
        robustness: On every model that a method made to forget; None where nothing was measured.
        forgotten: As published, on those alone that keep four fifths of the utility and that the instrument itself says
            have forgotten: it is below the value that best tells the models that scores are fitted on.
        control: On models that never knew, which a perfect instrument cannot tell from the retrained one either.
        n: Held-out members with a value.
    """

    name: str
    faithfulness: Faithfulness | None
    robustness: Robustness | None
    forgotten: Robustness | None
    control: Robustness | None
    n: int


@dataclass(frozen=True)
class Rate:
    """How often something happened.

    Args:
        hits: Times.
        n: Of how many.
        low: Lower end of the exact 95 % binomial interval; models of a task are not independent, so it is too narrow.
        high: Upper end.
    """

    hits: int
    n: int
    low: float
    high: float


@dataclass(frozen=True)
class Claims:
    """What audits with a fitted score claim of the held-out members (`concluded`).

    Args:
        false_alarms: Members that do not know, with a probability of at least 0.5.
        missed: Members that know, below 0.5.
        missed_hidden: Those of them that hide it: `HIDDEN`.
        abstained: Members of which nothing was claimed.
        error: Expected calibration error of the probabilities.
        stated: Task, member, whether it knows, score and probability, for every member.
    """

    false_alarms: Rate
    missed: Rate
    missed_hidden: Rate
    abstained: Rate
    error: float
    stated: tuple[tuple[str, str, bool, float, float], ...]


@dataclass(frozen=True)
class Forgetting:
    """What the score with attacks says of the models that one method made to forget, over the held-out tasks.

    Args:
        name: Of the method, or `retrained` or `never`.
        scores: State of the models to the score of each: `before`, `relearned` and `quantised`.
        probabilities: Likewise, that it holds the facts.
    """

    name: str
    scores: Mapping[str, tuple[float, ...]]
    probabilities: Mapping[str, tuple[float, ...]]


@dataclass(frozen=True)
class Calibration:
    """What calibration found.

    Args:
        scores: Fitted scores: `checks`, from what every audit measures, and one named after the suite with its attacks.
        worths: The fitted scores, their squares and their probabilities, then every instrument, on the held-out models;
            last what their weights alone tell.
        claims: For each fitted score.
        lacking: What of `LACKING` is missing to the same, for the scores that listen to it.
        forgetting: The retrained model and the one that never knew, then methods; none of these models is in the pool.
        fitted_on: Tasks, as world and concept.
        held_out: Likewise.
        pool: Member to how many there are, over all tasks.
    """

    scores: Mapping[str, ResidualScore]
    worths: tuple[Worth, ...]
    claims: Mapping[str, Claims]
    lacking: Mapping[str, Mapping[str, Claims]]
    forgetting: tuple[Forgetting, ...]
    fitted_on: tuple[str, ...]
    held_out: tuple[str, ...]
    pool: Mapping[str, int]


def evaluated(fit: Sequence[Record], held: Sequence[Record], *, suite: str, seed: int = 0) -> Calibration:
    """Fit the scores on some tasks and look at them, and at every instrument, on the others.

    Args:
        fit: Records of `audited` to fit on.
        held: Records to evaluate on; of other worlds, and so of other concepts, weights and documents.
        suite: Of both.
        seed: Of the bootstrap.

    Raises:
        VestigeError: The two share a world, or there are too few of them.
    """
    worlds = len({r["world"] for r in fit})
    if worlds < 2 or not held:
        raise VestigeError(
            "calibration needs two worlds to fit on, since one is left out while the penalty is chosen, and a task to "
            f"evaluate on; got {worlds} and {len(held)}"
        )
    shared = {r["world"] for r in fit} & {r["world"] for r in held}
    if shared:
        raise VestigeError(f"world {min(shared)} is both fitted on and evaluated on; give each world to one of the two")
    names = _instruments(fit)
    kinds = {"checks": tuple(n for n in names if n in CHECKS), suite: names}
    knows = np.array([s["knows"] for r in fit for s in _members(r)])
    # Models of one world are made from the same weights, so they are left out and resampled together.
    groups = [r["world"] for r in fit for _ in _members(r)]
    scores = {}
    for kind, chosen in kinds.items():
        shares = _table(fit, chosen)
        penalty = choose_penalty(shares, knows, chosen, groups)
        scores[kind] = fit_residual_score(shares, knows, chosen, penalty=penalty)
    readers: dict[str, Reader] = {f"score ({kind})": _reader(score) for kind, score in scores.items()}
    readers |= {f"score squared ({kind})": _squarer(score) for kind, score in scores.items()}
    readers |= {f"probability ({kind})": _prober(score) for kind, score in scores.items()}
    readers |= {name: _single(name) for name in (*names, WEIGHTS)}
    everyone = [s for r in (*fit, *held) for s in _members(r)]
    return Calibration(
        scores=scores,
        worths=tuple(_worth(name, reader, fit, held, seed) for name, reader in readers.items()),
        claims={kind: _claims(kind, scores, held) for kind in scores},
        lacking={
            what: {
                kind: _claims(kind, scores, held, without=missing)
                for kind, score in scores.items()
                if 0 < len(set(missing) & set(score.instruments)) < len(score.instruments)
            }
            for what, missing in LACKING.items()
        },
        forgetting=_forgetting(scores[suite], held),
        fitted_on=tuple(map(_task, fit)),
        held_out=tuple(map(_task, held)),
        pool={name: sum(s["name"] == name for s in everyone) for name in dict.fromkeys(s["name"] for s in everyone)},
    )


def _instruments(records: Sequence[Record]) -> tuple[str, ...]:
    """Return what was measured on at least one model, in the order of the first record."""
    seen = [s["shares"] for r in records for s in _members(r)]
    measured = dict.fromkeys(name for shares in seen for name, share in shares.items() if share is not None)
    return tuple(name for name in measured if name != WEIGHTS)


def _members(record: Record) -> list[Record]:
    return [s for s in record["subjects"] if s["state"] == "member"]


def _task(record: Record) -> str:
    return f"{record['world']}:{record['concept']}"


def _table(records: Sequence[Record], names: Sequence[str]) -> Float[npt.NDArray[Any], "n n_instruments"]:
    rows = [s["shares"] for r in records for s in _members(r)]
    return np.array([[np.nan if row.get(n) is None else row[n] for n in names] for row in rows], dtype=float)


def _single(name: str) -> Reader:
    def read(shares: Shares) -> float | None:
        share = shares.get(name)
        return None if share is None else min(1.0, max(0.0, share))

    return read


def _reader(score: ResidualScore) -> Reader:
    return lambda shares: score(shares).score


def _squarer(score: ResidualScore) -> Reader:
    return lambda shares: score(shares).score ** 2


def _prober(score: ResidualScore) -> Reader:
    return lambda shares: score(shares).probability


def _worth(name: str, reader: Reader, fit: Sequence[Record], held: Sequence[Record], seed: int) -> Worth:
    rows = [(reader(s["shares"]), s["knows"], r["world"]) for r in held for s in _members(r)]
    there = [row for row in rows if row[0] is not None]
    if name == WEIGHTS:
        return Worth(name, _faithfulness(there, seed), None, None, None, len(there))
    everything = [moved for record in held for moved in _moves(reader, record)]
    moves = [moved for moved in everything if moved.name != CONTROL]
    never = [moved for moved in everything if moved.name == CONTROL]
    known = [(reader(s["shares"]), s["knows"]) for r in fit for s in _members(r)]
    line = _threshold([(value, knows) for value, knows in known if value is not None])
    passed = [m for m in moves if line is not None and m.utility is not None and m.utility >= KEPT and m.before < line]
    return Worth(
        name,
        _faithfulness(there, seed),
        robustness=_robustness(moves),
        forgotten=_robustness(passed),
        control=_robustness(never),
        n=len(there),
    )


def _faithfulness(rows: Sequence[tuple[Any, ...]], seed: int) -> Faithfulness | None:
    if len({row[1] for row in rows}) < 2:
        return None
    values, truth, worlds = zip(*rows, strict=True)
    return faithfulness(values, truth, worlds, seed=seed)


def _threshold(known: Sequence[tuple[float, bool]]) -> float | None:
    """Return the value from which on models are best said to know: the middle of the gap with the highest balanced
    accuracy, the lowest of several. None where one of the two kinds was not measured.
    """
    if len({knows for _, knows in known}) < 2:
        return None
    values = np.array(sorted({value for value, _ in known}))
    edges = np.array([-np.inf, *(values[:-1] + values[1:]) / 2, np.inf])
    scores, knows = np.array([value for value, _ in known]), np.array([truth for _, truth in known], dtype=bool)
    right = [(scores[knows] >= edge).mean() + (scores[~knows] < edge).mean() for edge in edges]
    return float(edges[int(np.argmax(right))])


@dataclass(frozen=True)
class _Moved:
    """What tampering did to an instrument on one model."""

    name: str
    before: float
    relearning: float
    quantisation: float
    utility: float | None


def _moves(reader: Reader, record: Record) -> Iterator[_Moved]:
    """Measure every method of a task, against the retrained model."""
    states: dict[str, dict[str, Record]] = {}
    for subject in record["subjects"]:
        if subject["state"] != "member":
            states.setdefault(subject["name"], {})[subject["state"]] = subject
    retrained = states.pop("retrained", {})
    for name, state in states.items():
        read = [reader(state[when]["shares"]) for when in STATES]
        read += [reader(retrained[when]["shares"]) for when in STATES[:2]]
        if any(value is None for value in read):
            continue
        before, after, rounded, control, control_after = (float(value) for value in read if value is not None)
        kept = relearning_robustness(
            unlearned=before,
            unlearned_relearned=after,
            retrained=control,
            retrained_relearned=control_after,
            epsilon=EPSILON,
        )
        if kept is not None:
            rounding = quantisation_robustness(before=before, after=rounded, epsilon=EPSILON)
            yield _Moved(name, before, kept, rounding, state["before"].get("utility"))


def _forgetting(score: ResidualScore, held: Sequence[Record]) -> tuple[Forgetting, ...]:
    made: dict[str, dict[str, list[Residual]]] = {}
    for subject in (s for record in held for s in record["subjects"] if s["state"] != "member"):
        states = made.setdefault(subject["name"], {state: [] for state in STATES})
        states[subject["state"]].append(score(subject["shares"]))
    return tuple(
        Forgetting(
            name,
            {state: tuple(one.score for one in said) for state, said in states.items()},
            {state: tuple(one.probability for one in said) for state, said in states.items()},
        )
        for name, states in made.items()
    )


def _robustness(moves: Sequence[_Moved]) -> Robustness | None:
    if not moves:
        return None
    relearning, quantisation = ([getattr(m, name) for m in moves] for name in ("relearning", "quantisation"))
    return Robustness(float(np.mean(relearning)), float(np.mean(quantisation)), len(moves))


def _claims(
    kind: str, scores: Mapping[str, ResidualScore], held: Sequence[Record], *, without: Sequence[str] = ()
) -> Claims:
    """Count what audits claim that have the instruments of one kind, but for some."""
    listened = [name for name in scores[kind].instruments if name not in without]

    def claimed(shares: Shares) -> Residual:
        answer = concluded(scores, {name: shares.get(name) for name in listened})
        if answer is None:
            raise VestigeError(f"a held-out model has no share of {', '.join(listened)}")
        return answer[1]

    said: list[tuple[Record, Record, Residual]] = [(r, s, claimed(s["shares"])) for r in held for s in _members(r)]
    knows: Bool[npt.NDArray[Any], " n"] = np.array([s["knows"] for _, s, _ in said])
    stated = np.array([residual.probability for _, _, residual in said])
    hidden = np.array([s["name"] in HIDDEN for _, s, _ in said])
    return Claims(
        false_alarms=_rate(stated[~knows] >= 0.5),
        missed=_rate(stated[knows] < 0.5),
        missed_hidden=_rate(stated[hidden] < 0.5),
        abstained=_rate(np.array([residual.abstains for _, _, residual in said])),
        error=calibration_error(stated, knows),
        stated=tuple((_task(r), s["name"], bool(s["knows"]), one.score, one.probability) for r, s, one in said),
    )


def _rate(hits: Bool[npt.NDArray[Any], " n"]) -> Rate:
    if not len(hits):
        return Rate(0, 0, 0.0, 1.0)
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci()
    return Rate(int(hits.sum()), len(hits), float(interval.low), float(interval.high))
