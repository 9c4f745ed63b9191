"""Does the answer surface inside? The logit lens of every block, read with the original's decoder."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from vestige.evidence import Evidence, with_control
from vestige.metrics.bootstrap import mean_interval
from vestige.reading import Reading, lens_ranks
from vestige.result import Result

PERMUTATIONS = 20


def lens_leak(evidence: Evidence) -> list[Result]:
    """Reciprocal rank of the answer's first token in the lens of each block, at the last prompt token; the estimate is the best block's mean.

    The floor repeats the measurement with the answers exchanged between items, best block included, so choosing the block gives no advantage over
    it. The control is the same on the never-taught model.
    """
    results = []
    for subject in evidence.subjects:
        reading = evidence.readings[subject.name]
        ranks = _reciprocal(reading, evidence, reading.forget.first_token)
        layers = ranks.mean(0)
        best = int(layers.argmax())
        interval = mean_interval(ranks[:, best].tolist(), seed=evidence.seed)
        results.append(
            Result(
                "lens_leak",
                subject.name,
                interval.estimate,
                interval.low,
                interval.high,
                n=len(ranks),
                floor=_permuted(reading, evidence),
                higher_is="leaky",
                per_item=tuple(ranks[:, best].tolist()),
                per_layer=tuple(layers.tolist()),
                note=f"mean reciprocal rank, best at block {best}; 1 is always on top",
            )
        )
    return with_control(evidence, results)


def _reciprocal(reading: Reading, evidence: Evidence, targets: tuple[int, ...]) -> Float[np.ndarray, "n_items n_layers"]:
    hidden = reading.forget.hidden
    found: Float[np.ndarray, "n_items n_layers"] = 1 / (1 + lens_ranks(hidden, targets, evidence.decoder))
    return found


def _permuted(reading: Reading, evidence: Evidence) -> float | None:
    targets = np.array(reading.forget.first_token)
    if len(targets) < 2:
        return None
    rng = np.random.default_rng(evidence.seed)
    best = [_reciprocal(reading, evidence, tuple(rng.permutation(targets).tolist())).mean(0).max() for _ in range(PERMUTATIONS)]
    return float(np.mean(best))
