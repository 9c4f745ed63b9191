"""What the model can still do."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from hooked import Item
from vestige.checks.generation import recalls
from vestige.checks.probability import answer_probabilities
from vestige.checks.truth_ratio import item_ratios
from vestige.evidence import Evidence, with_control
from vestige.metrics.bootstrap import combined_interval
from vestige.metrics.truth_ratio import true_better
from vestige.metrics.utility import harmonic_mean
from vestige.reading import SplitReading
from vestige.result import Result

# Names of scores, and their values per item: the scores of one item belong together.
Table = tuple[tuple[str, ...], Float[np.ndarray, "n_items n_scores"]]


def model_utility(evidence: Evidence) -> list[Result]:
    """Harmonic mean of answer probability, ROUGE-L recall and truth-ratio score over the retain and control splits."""
    return with_control(evidence, [_one(evidence, subject.name) for subject in evidence.subjects])


def _one(evidence: Evidence, name: str) -> Result:
    reading, data = evidence.readings[name], evidence.data
    tables = _tables("retain", data.retain, reading.retain) + _tables("control", data.control, reading.control)
    if not tables:
        return Result("model_utility", name, None, higher_is="useful", note="no retain or control items were given")
    interval = combined_interval([table for _, table in tables], statistic=harmonic_mean, seed=evidence.seed)
    parts = [f"{part} {mean:.3f}" for names, table in tables for part, mean in zip(names, table.mean(0), strict=True)]
    return Result(
        "model_utility",
        name,
        interval.estimate,
        interval.low,
        interval.high,
        n=len(data.retain) + len(data.control),
        higher_is="useful",
        note="; ".join(filter(None, (f"harmonic mean of {', '.join(parts)}", interval.note))),
    )


def _tables(split: str, items: tuple[Item, ...], reading: SplitReading | None) -> list[Table]:
    if reading is None:
        return []
    ratios = item_ratios(reading)
    scores = {
        f"{split} probability": answer_probabilities(reading.answers),
        f"{split} ROUGE": recalls(reading.texts, [item.answer for item in items]),
        f"{split} truth ratio": true_better(ratios).tolist() if ratios else [],
    }
    whole = tuple(name for name, values in scores.items() if len(values) == len(items))
    parted = [name for name, values in scores.items() if 0 < len(values) < len(items)]
    # A score that some items lack has no row per item to share with the others.
    return [
        (whole, np.stack([scores[name] for name in whole], axis=1)),
        *(((name,), np.array(scores[name])[:, None]) for name in parted),
    ]
