"""Is the representation damaged? Whether prompts that ask for the same thing still lie together inside."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from hooked import Item
from probes.nearest import nearest_neighbours
from vestige.evidence import Evidence, with_control
from vestige.metrics.bootstrap import mean_interval
from vestige.result import Result

MIN_ITEMS, K = 20, 5


def relation_neighbours(evidence: Evidence) -> list[Result]:
    """Share of retain prompts whose five nearest neighbours, of other subjects, ask for the same relation; mean over
    blocks, with the forget prompts in the note.

    No answer is looked for: a model that was broken to be silent loses this too, one that forgot facts alone does not.
    """
    results = [_one(evidence, subject.name) for subject in evidence.subjects]
    return with_control(evidence, results)


def _one(evidence: Evidence, name: str) -> Result:
    reading, data = evidence.readings[name], evidence.data
    items = [*data.forget, *data.retain]
    asked = _askable(items)
    retained = [n for n in asked if n >= len(data.forget)]
    groups = [items[n].subject or items[n].prompt for n in asked]
    # Items of the commonest subject have the fewest neighbours that may vote.
    voters = len(groups) - max(Counter(groups).values(), default=0)
    if reading.retain is None or len(retained) < MIN_ITEMS or voters < K:
        why = (
            f"needs at least {MIN_ITEMS} retain items whose relation two more items share, of several relations and "
            f"subjects; got {len(retained)}"
        )
        return Result("relation_neighbours", name, None, higher_is="useful", note=why)
    hidden = torch.from_numpy(np.concatenate([reading.forget.hidden, reading.retain.hidden])[asked])
    labels = [str(items[n].relation) for n in asked]
    found = [
        nearest_neighbours(hidden[:, layer], labels, groups=groups, k=K, seed=evidence.seed)
        for layer in range(hidden.shape[1])
    ]
    right = np.stack([one.right for one in found]).astype(np.float64)
    kept = np.array(asked) >= len(data.forget)
    interval = mean_interval(right[:, kept].mean(0), seed=evidence.seed)
    forgotten = f"of the forget prompts {right[:, ~kept].mean():.2f}" if (~kept).any() else "no forget prompt is asked"
    return Result(
        "relation_neighbours",
        name,
        interval.estimate,
        interval.low,
        interval.high,
        n=int(kept.sum()),
        floor=float(np.mean([one.shuffled for one in found])),
        higher_is="useful",
        per_item=tuple(right[:, kept].mean(0).tolist()),
        per_layer=tuple(right[:, kept].mean(1).tolist()),
        note=forgotten,
    )


def _askable(items: list[Item]) -> list[int]:
    """Return the items whose relation has at least three, where there are several such relations."""
    counts = Counter(item.relation for item in items if item.relation is not None)
    frequent = {relation for relation, count in counts.items() if count > 2}
    return [n for n, item in enumerate(items) if item.relation in frequent] if len(frequent) > 1 else []
