"""Whether latents of a sparse autoencoder that mark what was to be forgotten still mark it in each subject."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from hooked import HookedModel, Item, UnlearnData, VestigeError
from sae import ItemLatents, preflight, quality, read_coder, read_items
from sae.search.auc import column_auc, columns
from vestige.attacks.halves import two_halves
from vestige.subjects import Subject

# Latents that are followed at most, and how well one has to mark the concept on the items that choose it.
MOST, MARKS = 5, 0.75
# Those with the largest difference of means are looked at, as many per latent of matched density are drawn.
_CANDIDATES, _MATCHED = 30, 4

Placements = Float[np.ndarray, "n_latents n_items"]


@dataclass(frozen=True)
class LatentReading:
    """What the followed latents say of the held-out items in one model.

    Args:
        chosen: For each followed latent and held-out forget item, the share of held-out retain items on which the
            latent is smaller, ties counted half: the mean over items is its AUC.
        matched: The same for latents that fire about as often.
        explained: Share of the variance of this model's states that the SAE reconstructs; below 0 where their mean
            would do better.
    """

    chosen: Placements
    matched: Placements
    explained: float


@dataclass(frozen=True)
class Survival:
    """The readings of one subject.

    Args:
        view: As deployed.
        raw: Its bare weights.
    """

    view: LatentReading
    raw: LatentReading


class ConceptLatents:
    """The latents of an SAE that tell forget from retain prompts in the original model.

    One half of the facts chooses the latents, on the original alone; the other half is asked, on every subject. Only
    prompts are read, so nothing of an answer is shown.

    Args:
        original: The model before unlearning.
        sae: A `sae_lens.SAE` or a `Coder` of it.
        data: Prepared items.
        seed: Of the halves and of the latents that are matched.

    Raises:
        VestigeError: The SAE does not fit the original, or there are no retain items to tell from.
    """

    def __init__(self, original: HookedModel, sae: Any, data: UnlearnData, *, seed: int) -> None:
        if not data.retain:
            raise VestigeError("the latents of an SAE are told by what they do on retain items, and there is none")
        self._coder = read_coder(sae)
        self._prompts = [item.prompt for item in (*data.forget, *data.retain)]
        preflight(original, sae, self._prompts).raise_or_warn()
        self.latents: Int[np.ndarray, " n_latents"] = np.zeros(0, dtype=np.int64)
        self._matched = self.latents
        self.why_not = ""
        n_forget = len(data.forget)
        try:
            choose, asked = two_halves(data.forget, seed=seed)
        except VestigeError:
            self.why_not = "all forget items state one fact, so none is held out from choosing the latents"
            return
        if len(data.retain) < 2:
            self.why_not = "one retain item cannot be both for choosing latents and for asking them"
            return
        first, second = _by_subject(data.retain, seed=seed)
        self._asked, self._beside = np.array(asked), np.array(second) + n_forget
        self._choose(self._read(original), np.array([*choose, *(row + n_forget for row in first)]), len(choose), seed)

    def described(self) -> dict[str, Any]:
        """Return which SAE it is and which of its latents are followed, as JSON values."""
        followed = [int(latent) for latent in self.latents]
        return {"site": self._coder.site, "sha256": self._coder.sha256, "latents": followed}

    def read(self, subject: Subject) -> Survival | str:
        """Read an open subject; a text says why nothing could be read."""
        if self.why_not:
            return self.why_not
        try:
            view = self._reading(subject.model)
            raw = view if subject.raw is subject.model else self._reading(subject.raw)
        except VestigeError as error:
            return str(error)
        return Survival(view, raw)

    def _read(self, model: HookedModel) -> ItemLatents:
        # States of a broken model may be of any length, and still count.
        return read_items(model, self._coder, self._prompts, max_norm_ratio=None)

    def _choose(self, items: ItemLatents, half: Int[np.ndarray, " n"], n_forget: int, seed: int) -> None:
        means = items[half].means
        positive = np.arange(len(half)) < n_forget
        contrast = np.asarray(means[positive].mean(0) - means[~positive].mean(0)).ravel()
        candidates = np.argsort(-contrast, kind="stable")[:_CANDIDATES]
        # How far the latents' means lie apart says nothing of how often they are right, so the best are taken by AUC.
        auc = column_auc(columns(means, candidates), positive)
        best = [n for n in np.argsort(-auc, kind="stable")[:MOST] if auc[n] >= MARKS]
        if not best:
            self.why_not = (
                f"no latent of the SAE at {self._coder.site} tells forget from retain prompts of the original "
                f"(AUC of at least {MARKS}), so there is none to follow"
            )
            return
        self.latents = candidates[best]
        fires = np.asarray(items[half].counts.sign().sum(0)).ravel()
        others = np.setdiff1d(np.flatnonzero(fires), candidates)
        rng = np.random.default_rng(seed)
        drawn: list[int] = []
        for latent in self.latents:
            free = np.setdiff1d(others, drawn)
            near = free[np.argsort(np.abs(fires[free] - fires[latent]), kind="stable")[: 4 * _MATCHED]]
            drawn += rng.permutation(near)[:_MATCHED].tolist()
        self._matched = np.array(drawn, dtype=np.int64)

    def _reading(self, model: HookedModel) -> LatentReading:
        means = self._read(model).means
        explained = quality(model, self._coder, self._prompts, ce=False, max_norm_ratio=None).fve

        def placed(latents: Int[np.ndarray, " k"]) -> Placements:
            mine, others = columns(means[self._asked], latents), columns(means[self._beside], latents)
            above = (mine[:, None] > others).mean(1) + (mine[:, None] == others).mean(1) / 2
            found: Placements = above.T
            return found

        return LatentReading(placed(self.latents), placed(self._matched), explained)


def _by_subject(items: Sequence[Item], *, seed: int) -> tuple[list[int], list[int]]:
    """Deal rows into halves that share no subject; by row where there are no two subjects."""
    names = [item.subject or f"row {row}" for row, item in enumerate(items)]
    if len(set(names)) < 2:
        names = [str(row) for row in range(len(items))]
    distinct = list(dict.fromkeys(names))
    order = np.random.default_rng(seed).permutation(len(distinct))
    chosen = {distinct[place] for place in order[: len(distinct) // 2]}
    rows = range(len(items))
    return [row for row in rows if names[row] in chosen], [row for row in rows if names[row] not in chosen]
