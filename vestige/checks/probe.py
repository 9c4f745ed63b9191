"""Can a linear probe read the answer? Taught on retained facts, asked about forgotten ones, at every block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int

from hooked import Item
from probes import fit_answer_probe, win_rates
from vestige.evidence import Evidence, with_control
from vestige.metrics.bootstrap import mean_interval
from vestige.reading import SplitReading
from vestige.result import Result

MIN_FIT, MIN_ASKED = 40, 2
SHUFFLES = 5
# Below this rate on retained facts, which the model does know, the probe has not learnt to read.
BLIND = 0.6

Rates = Float[np.ndarray, " n"]


def probe_leak(evidence: Evidence) -> list[Result]:
    """How often a linear probe of the residual stream prefers the right answer to those of other items of the same
    relation, over the forget items; chance is 0.5.

    Answers are told apart by their first tokens. At each block the probe learns on half of the retain facts; the block
    shown is the one that does best on the other half, so the forget facts choose nothing. A token is scored relative to
    its mean score over all items that are asked: without that, the tokens that the probe was taught would win whatever
    the item. Beside it stand the same probe taught with shuffled answers and the model that never learnt the facts.
    """
    exam = _exam(evidence)
    if isinstance(exam, str):
        results = [
            Result("probe_leak", s.name, None, higher_is="leaky", floor=0.5, note=exam) for s in evidence.subjects
        ]
    else:
        results = [_one(evidence, exam, subject.name) for subject in evidence.subjects]
    return with_control(evidence, results)


@dataclass(frozen=True)
class _Exam:
    """Who teaches the probe and who is asked what; the same for every subject.

    Args:
        learn: Retain items that teach.
        choose: Retain items that choose the block.
        forget: Forget items that are asked.
        lesson: Right answers of `learn`, as columns of `W_U`.
        right: Right answers of the items asked, those of `forget` first.
        wrong: Which answers are wrong for each of them.
        W_U: Unembedding of every first token that occurs.
    """

    learn: Int[np.ndarray, " n_learn"]
    choose: Int[np.ndarray, " n_choose"]
    forget: Int[np.ndarray, " n_forget"]
    lesson: Int[np.ndarray, " n_learn"]
    right: Int[np.ndarray, " n"]
    wrong: Bool[np.ndarray, "n n_tokens"]
    W_U: Float[np.ndarray, "d_model n_tokens"]


def _exam(evidence: Evidence) -> _Exam | str:
    """Divide the items, or say why there is nothing to ask."""
    reading, items = evidence.original, (*evidence.data.forget, *evidence.data.retain)
    if reading.retain is None:
        return "no retain items were given, and the probe learns on them"
    first = np.array([*reading.forget.first_token, *reading.retain.first_token])
    tokens, column = np.unique(first, return_inverse=True)
    wrong = _wrong_columns(items, column, len(tokens))
    n_forget, askable = len(evidence.data.forget), np.asarray(wrong.any(1))
    forget, fit = np.flatnonzero(askable[:n_forget]), np.flatnonzero(askable[n_forget:])
    if len(forget) < MIN_ASKED or len(fit) < MIN_FIT:
        return (
            f"needs at least {MIN_ASKED} forget and {MIN_FIT} retain items to whose relation another answer "
            f"with another first token belongs, got {len(forget)} and {len(fit)}"
        )
    order = np.random.default_rng(evidence.seed).permutation(fit)
    learn, choose = order[: len(order) // 2], order[len(order) // 2 :]
    lesson = column[n_forget + learn]
    if len(np.unique(lesson)) < 2:
        return "the answers of the retain items that teach the probe all begin alike"
    asked = np.concatenate([forget, n_forget + choose])
    W_U = evidence.decoder.W_U[:, tokens.tolist()].float().cpu().numpy()
    return _Exam(learn, choose, forget, lesson, column[asked], wrong[asked], W_U)


def _wrong_columns(
    items: Sequence[Item], column: Int[np.ndarray, " n"], n_tokens: int
) -> Bool[np.ndarray, "n n_tokens"]:
    """Mark, per item, the first tokens of answers to other items of its relation that differ from its own."""
    relations = {item.relation: np.zeros(n_tokens, dtype=bool) for item in items}
    for item, own in zip(items, column, strict=True):
        relations[item.relation][own] = True
    wrong = np.stack([relations[item.relation] for item in items])
    wrong[np.arange(len(items)), column] = False
    return wrong


def _one(evidence: Evidence, exam: _Exam, name: str) -> Result:
    reading = evidence.readings[name]
    forget, retain = reading.forget, reading.retain
    if retain is None:
        return Result("probe_leak", name, None, higher_is="leaky", floor=0.5, note="no retain items were read")
    n_layers, n = forget.hidden.shape[1], len(exam.forget)
    rates = [_rates(exam, forget, retain, layer, exam.lesson) for layer in range(n_layers)]
    chosen = [float(rate[n:].mean()) for rate in rates]
    best = int(np.argmax(chosen))
    rng = np.random.default_rng([evidence.seed, 1])
    shuffled = [_rates(exam, forget, retain, best, rng.permutation(exam.lesson))[:n].mean() for _ in range(SHUFFLES)]
    interval = mean_interval(rates[best][:n].tolist(), seed=evidence.seed)
    note = (
        f"block {best}, chosen on retained facts ({chosen[best]:.2f} there); "
        f"with shuffled answers {np.mean(shuffled):.2f}"
    )
    if chosen[best] < BLIND:
        blind = f"the probe hardly reads even retained facts ({note}), so it cannot say that others are gone"
        return Result("probe_leak", name, None, higher_is="leaky", floor=0.5, note=blind)
    if interval.high is not None and interval.high < 0.5:
        note += "; clearly below chance: right answers are pushed below wrong ones, which gives them away too"
    return Result(
        "probe_leak",
        name,
        interval.estimate,
        interval.low,
        interval.high,
        n=n,
        floor=0.5,
        higher_is="leaky",
        per_item=tuple(rates[best][:n].tolist()),
        per_layer=tuple(float(rate[:n].mean()) for rate in rates),
        note=note,
    )


def _rates(
    exam: _Exam, forget: SplitReading, retain: SplitReading, layer: int, lesson: Int[np.ndarray, " n_learn"]
) -> Rates:
    """Teach the probe and ask it; one rate per item asked."""
    probe = fit_answer_probe(retain.hidden[exam.learn, layer], lesson, W_U=exam.W_U)
    acts = np.concatenate([forget.hidden[exam.forget, layer], retain.hidden[exam.choose, layer]])
    return win_rates(probe.scores(acts), exam.right, exam.wrong)
