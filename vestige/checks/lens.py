"""Does the answer surface inside? The logit lens of every block, read with the original's decoder."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from torch import Tensor

from vestige.evidence import Evidence, with_control
from vestige.metrics.bootstrap import mean_interval
from vestige.reading import Reading
from vestige.result import Result


def lens_leak(evidence: Evidence) -> list[Result]:
    """Reciprocal rank of the answer's first token in the lens of each block, at the last prompt token; the estimate is
    the best block's mean.

    The floor repeats the measurement with the answers exchanged between items, best block included, so choosing the
    block gives no advantage over it. The control is the same on the never-taught model.
    """
    results = []
    for subject in evidence.subjects:
        reading = evidence.readings[subject.name]
        ranks = _reciprocal(reading.lens_rank)
        layers = ranks.mean(-1)
        best = int(layers.argmax())
        interval = mean_interval(ranks[best].tolist(), seed=evidence.seed)
        results.append(
            Result(
                "lens_leak",
                subject.name,
                interval.estimate,
                interval.low,
                interval.high,
                n=ranks.shape[1],
                floor=_permuted(reading),
                higher_is="leaky",
                per_item=tuple(ranks[best].tolist()),
                per_layer=tuple(layers.tolist()),
                note="; ".join(
                    filter(None, (f"mean reciprocal rank, best at block {best}; 1 is always on top", interval.note))
                ),
            )
        )
    return with_control(evidence, results)


def _reciprocal(ranks: Float[Tensor, "*shape"]) -> Float[np.ndarray, "*shape"]:
    found: Float[np.ndarray, "*shape"] = 1 / (1 + ranks.double().numpy())
    return found


def _permuted(reading: Reading) -> float | None:
    if not reading.lens_floor_rank.numel():
        return None
    best_block = _reciprocal(reading.lens_floor_rank).mean(-1).max(0)
    return float(best_block.mean())
