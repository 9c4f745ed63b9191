"""Readings and evidence made by hand, with as few numbers as a check needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from hooked import Decoder, Item, UnlearnData
from probes import ConceptVector
from vestige.evidence import Evidence
from vestige.reading import Reading, Score, SplitReading
from vestige.result import Kind, Result, SubjectInfo

KINDS: Mapping[str, Kind] = {"original": "original", "retain": "retrained", "never": "never"}


def score(probability: float, *, label: int = 0, prediction: int | None = None, n: int = 1) -> Score:
    """Score an answer of `n` equal tokens of this probability; the first choice is the label unless said."""
    value = log(probability) if probability > 0 else -float("inf")
    chosen = label if prediction is None else prediction
    return Score((value,) * n, (chosen,) * n, (label,) * n)


def split(
    probabilities: Sequence[float],
    *,
    bases: Sequence[float] | None = None,
    wrong: Sequence[Sequence[float]] | None = None,
    texts: Sequence[str] | None = None,
    token_ids: Sequence[Sequence[int]] | None = None,
    labels: Sequence[int] | None = None,
    hidden: Any = None,
) -> SplitReading:
    """Return the reading of a split whose answers have these probabilities."""
    n = len(probabilities)
    answers = tuple(score(p, label=t) for p, t in zip(probabilities, labels or [0] * n, strict=True))
    return SplitReading(
        answers=answers,
        bases=answers if bases is None else tuple(map(score, bases)),
        wrong=((),) * n if wrong is None else tuple(tuple(map(score, row)) for row in wrong),
        texts=tuple(texts or ("",) * n),
        token_ids=tuple(map(tuple, token_ids or ((1, 2),) * n)),
        hidden=np.zeros((n, 2, 4), dtype=np.float32) if hidden is None else hidden,
    )


def reading(
    forget: SplitReading | Sequence[float],
    *,
    retain: SplitReading | None = None,
    control: SplitReading | None = None,
    raw: Sequence[float] | None = None,
    reworded: Sequence[float] = (),
    lens_rank: Tensor | None = None,
    lens_floor_rank: Tensor | None = None,
    rows: Mapping[tuple[int, int], Any] | None = None,
) -> Reading:
    """Return the reading of a subject; a list of numbers stands for the probabilities of the forget answers."""
    said = forget if isinstance(forget, SplitReading) else split(forget)
    n = len(said.answers)
    return Reading(
        forget=said,
        retain=retain,
        control=control,
        lens_rank=torch.zeros(2, n) if lens_rank is None else lens_rank,
        lens_floor_rank=torch.zeros(2, 20, n) if lens_floor_rank is None else lens_floor_rank,
        raw_forget=said.answers if raw is None else tuple(map(score, raw)),
        reworded=tuple(map(score, reworded)),
        value_rows={at: np.asarray(row, dtype=np.float32) for at, row in (rows or {}).items()},
    )


def decoder(W_U: Tensor | None = None) -> Decoder:
    """Return a decoder without norm; by default of 6 tokens and width 4."""
    weight = torch.eye(6, 4) if W_U is None else W_U.T
    head = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    head.weight.data.copy_(weight)
    return Decoder(None, head)


def questions(n: int, **fields: Any) -> tuple[Item, ...]:
    """Return n different questions."""
    return tuple(Item(f"question {i}", f"answer {i}", **fields) for i in range(n))


def evidence(
    readings: Mapping[str, Reading],
    *,
    data: UnlearnData | None = None,
    vectors: Sequence[tuple[int, int]] = (),
    W_U: Tensor | None = None,
    seed: int = 0,
) -> Evidence:
    """Put readings side by side; names other than `original`, `retain` and `never` are unlearned subjects."""
    first = next(iter(readings.values()))
    made = UnlearnData(
        questions(len(first.forget.answers)),
        questions(len(first.retain.answers)) if first.retain else (),
        (),
        questions(len(first.control.answers)) if first.control else (),
    )
    subjects = tuple(SubjectInfo(name, KINDS.get(name, "unlearned")) for name in readings)
    found = tuple(ConceptVector(layer, neuron, 1.0, 0.01, 0.01, (), ()) for layer, neuron in vectors)
    return Evidence(data or made, subjects, readings, decoder(W_U), found, seed)


def by_subject(results: Sequence[Result], check: str | None = None) -> dict[str, Result]:
    """Index the results of one check."""
    return {r.subject: r for r in results if check in (None, r.check)}
