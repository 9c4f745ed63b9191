"""Can a linear probe read the answer? Taught on retained facts, asked about forgotten ones, at every block."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from probes import AnswerProbe, fit_answer_probe, win_rates
from vestige.evidence import Evidence, with_control
from vestige.metrics.bootstrap import mean_interval
from vestige.reading import Reading, SplitReading
from vestige.result import Result

MIN_FIT = 40


def probe_leak(evidence: Evidence) -> list[Result]:
    """How often a linear probe of the residual stream prefers the right answer to a wrong one, over the forget items; chance is 0.5.

    At each block the probe learns on half of the retain facts; the block shown is the one that does best on the other half, so the forget facts choose
    nothing. Beside it stand the same probe taught with shuffled answers and the model that never learnt the facts.
    """
    return with_control(evidence, [_one(evidence, subject.name, evidence.readings[subject.name]) for subject in evidence.subjects])


def _one(evidence: Evidence, name: str, reading: Reading) -> Result:
    kept = reading.retain
    keep = _askable(reading.forget)
    fit = _askable(kept) if kept is not None else []
    if kept is None or len(keep) < 2 or len(fit) < MIN_FIT:
        why = f"needs at least 2 forget and {MIN_FIT} retain items with wrong answers that begin differently, got {len(keep)} and {len(fit)}"
        return Result("probe_leak", name, None, higher_is="leaky", floor=0.5, note=why)
    rng = np.random.default_rng(evidence.seed)
    order = rng.permutation(fit)
    learn, choose = order[: len(order) // 2], order[len(order) // 2 :]
    W_U = evidence.decoder.W_U.float().cpu().numpy()
    n_layers = reading.forget.hidden.shape[1]
    rates, chosen, shuffled = [], [], []
    for layer in range(n_layers):
        acts = kept.hidden[learn, layer]
        answers = np.array(kept.first_token)[learn]
        probe = fit_answer_probe(acts, answers, W_U=W_U)
        chosen.append(_rates(probe, kept, choose, layer).mean())
        rates.append(_rates(probe, reading.forget, np.array(keep), layer))
        mixed = fit_answer_probe(acts, rng.permutation(answers), W_U=W_U)
        shuffled.append(_rates(mixed, reading.forget, np.array(keep), layer).mean())
    best = int(np.argmax(chosen))
    interval = mean_interval(rates[best].tolist(), seed=evidence.seed)
    note = f"block {best}, chosen on retained facts ({chosen[best]:.2f} there); with shuffled answers {shuffled[best]:.2f}; floor 0.5"
    return Result(
        "probe_leak",
        name,
        interval.estimate,
        interval.low,
        interval.high,
        n=len(keep),
        floor=0.5,
        higher_is="leaky",
        per_item=tuple(rates[best].tolist()),
        per_layer=tuple(float(r.mean()) for r in rates),
        note=note,
    )


def _askable(split: SplitReading) -> list[int]:
    return [n for n, (token, wrong) in enumerate(zip(split.first_token, split.wrong_tokens, strict=True)) if any(t != token for t in wrong)]


def _rates(probe: AnswerProbe, split: SplitReading, items: Int[np.ndarray, " n"], layer: int) -> Float[np.ndarray, " n"]:
    tokens = np.array(split.first_token)[items]
    return win_rates(probe, split.hidden[items, layer], tokens, [np.array(split.wrong_tokens[n]) for n in items])
