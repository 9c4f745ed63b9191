"""Attribute recovery: where items carry known labels, which one does a latent stand for?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

from hooked.errors import VestigeError
from sae.chosen import existing
from sae.items import ItemLatents
from sae.search.arguments import check_counts
from sae.search.auc import column_auc, columns


@dataclass(frozen=True)
class Recovered:
    """The label that a latent fits best.

    Args:
        latent: Which latent.
        attribute: Name of the label with the largest AUC.
        auc: AUC of the item maximum for it.
        f1: F1 of the item maximum for it, at the threshold that suits best.
        floor: AUC that the best label reaches in 95 % of permutations of items at most.
    """

    latent: int
    attribute: str
    auc: float
    f1: float
    floor: float


def recover_attributes(
    items: ItemLatents,
    attributes: Mapping[str, Bool[np.ndarray, " n_items"]],
    latents: Sequence[int],
    *,
    draws: int = 100,
    seed: int = 0,
) -> tuple[Recovered, ...]:
    """Return the best single label of each latent, beside what the best of so many labels reaches by chance.

    Items without a token that counts are left out.

    Args:
        items: Items that the labels belong to.
        attributes: Label to which items have it.
        latents: Which latents.
        draws: Permutations of items for the floor.
        seed: Of these.

    Raises:
        VestigeError: There are no labels, or one has another length, or is the same for all items with tokens that
            count; a latent does not exist, or `draws` is below 1.
    """
    check_counts(draws=draws)
    chosen, real = existing(latents, items.d_sae), items.tokens > 0
    names = sorted(attributes)
    if not names:
        raise VestigeError("there are no attributes to recover")
    for name in names:
        has = np.asarray(attributes[name])
        fits = has.shape == (len(items),) and has.dtype == np.bool_
        if not fits or has[real].all() or not has[real].any():
            raise VestigeError(
                f"attribute {name!r} needs one bool for each of {len(items)} items, some true and some not; "
                f"got {has.dtype} of shape {has.shape} with {int(has.sum())} true"
            )
    labels = np.stack([np.asarray(attributes[name])[real] for name in names], axis=1)
    values = columns(items[real].maxima, np.asarray(chosen, dtype=np.int64))
    aucs = _every(values, labels)
    rng = np.random.default_rng(seed)
    drawn = np.stack([_every(values, labels[rng.permutation(len(labels))]).max(1) for _ in range(draws)])
    floors = np.quantile(drawn, 0.95, axis=0, method="higher")
    found = []
    for i, latent in enumerate(chosen):
        best = int(aucs[i].argmax())
        f1 = _f1(values[:, i], labels[:, best])
        found.append(Recovered(latent, names[best], float(aucs[i, best]), f1, float(floors[i])))
    return tuple(found)


def _every(
    values: Float[np.ndarray, "n k"], labels: Bool[np.ndarray, "n attributes"]
) -> Float[np.ndarray, "k attributes"]:
    return np.stack([column_auc(values, has) for has in labels.T], axis=1)


def _f1(values: Float[np.ndarray, " n"], has: Bool[np.ndarray, " n"]) -> float:
    order = np.argsort(-values, kind="stable")
    right, called = np.cumsum(has[order]), np.arange(1, len(order) + 1)
    # A threshold lies between different values only.
    ends = np.r_[values[order][1:] != values[order][:-1], True]
    return float((2 * right / (called + has.sum()))[ends].max())
