"""What the model can still do."""

from __future__ import annotations

import numpy as np

from hooked import Item
from vestige.checks.probability import answer_probabilities
from vestige.checks.truth_ratio import item_ratios
from vestige.evidence import Evidence, with_control
from vestige.metrics import utility
from vestige.metrics.generation import rouge_l_recall
from vestige.metrics.truth_ratio import true_better
from vestige.reading import Reading, SplitReading
from vestige.result import Result


def model_utility(evidence: Evidence) -> list[Result]:
    """Harmonic mean of answer probability, ROUGE-L recall and truth-ratio score over the retain and control splits."""
    results = []
    for subject in evidence.subjects:
        parts = _all_parts(evidence, evidence.readings[subject.name])
        if not parts:
            results.append(Result("model_utility", subject.name, None, higher_is="useful", note="no retain or control items were given"))
            continue
        score = utility.model_utility(parts)
        shown = ", ".join(f"{name} {value:.3f}" for name, value in parts.items())
        n = len(evidence.data.retain) + len(evidence.data.control)
        results.append(Result("model_utility", subject.name, score.value, n=n, higher_is="useful", note=f"harmonic mean of {shown}"))
    return with_control(evidence, results)


def _all_parts(evidence: Evidence, reading: Reading) -> dict[str, float]:
    parts: dict[str, float] = {}
    if reading.retain is not None:
        parts |= _parts("retain", evidence.data.retain, reading.retain)
    if reading.control is not None:
        parts |= _parts("control", evidence.data.control, reading.control)
    return parts


def _parts(name: str, items: tuple[Item, ...], split: SplitReading) -> dict[str, float]:
    parts = {
        f"{name} probability": float(np.mean(answer_probabilities(split.answers))),
        f"{name} ROUGE": float(np.mean([rouge_l_recall(t, reference=i.answer) for t, i in zip(split.texts, items, strict=True)])),
    }
    found = item_ratios(split)
    if found:
        parts[f"{name} truth ratio"] = float(np.mean(true_better(found)))
    return parts
