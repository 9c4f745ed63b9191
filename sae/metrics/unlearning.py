"""The SAEBench unlearning score: how far the best edit that does no harm elsewhere pushes accuracy down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hooked import Intervention, VestigeError
from sae.chosen import existing
from sae.group import GroupStatistics
from sae.search.arguments import check_counts

DRAWS = 10


class Answers(NamedTuple):
    """How many questions were answered correctly, of how many."""

    correct: int
    asked: int


Asking = Callable[[Intervention], Answers | Sequence[Answers]]


@dataclass(frozen=True)
class Setting:
    """One edit of a grid.

    Args:
        name: As in the grid.
        forget: Accuracy on what is to be forgotten, in [0, 1].
        side: Accuracy on unrelated subjects, their questions pooled, in [0, 1].
    """

    name: str
    forget: float
    side: float


@dataclass(frozen=True)
class UnlearningScore:
    """Result of `unlearning_score`.

    Args:
        score: `1 - min accuracy` on what is to be forgotten, over settings that keep `floor` of the rest; 0 for none.
        settings: Every edit that was tried.
        floor: Accuracy on unrelated subjects that a setting has to keep.
        control: The same score of every draw of random latents; what the score has to be compared with.
    """

    score: float
    settings: tuple[Setting, ...]
    floor: float
    control: tuple[float, ...]

    @property
    def pareto(self) -> tuple[Setting, ...]:
        """Settings that no other beats on both accuracies, from least to most harm."""
        order = sorted(self.settings, key=lambda one: (-one.side, one.forget))
        best: list[Setting] = []
        for one in order:
            if not best or one.forget < best[-1].forget:
                best.append(one)
        return tuple(best)

    @property
    def above_control(self) -> float:
        """Share of the random draws whose score is lower."""
        return float(np.mean([self.score > drawn for drawn in self.control]))


def unlearning_score(
    grid: Mapping[str, Intervention],
    *,
    forget: Asking,
    side: Asking,
    controls: Sequence[Mapping[str, Intervention]],
    floor: float = 0.99,
) -> UnlearningScore:
    """Score a grid of edits against grids of random latents, in memory: no result of another run can leak in.

    Questions are meant to be those that the unedited model answers, so that its accuracy is 1 on both.

    Args:
        grid: Name to edit, e.g. 2 frequency thresholds x 2 numbers of latents x 4 clamp values.
        forget: Asks the questions of the concept under an edit.
        side: Asks those of unrelated subjects; several `Answers` are pooled by question, not averaged.
        controls: At least 10 grids whose latents were drawn at random, e.g. by `density_matched`.
        floor: Pooled accuracy that a setting has to keep; published: 0.99.

    Raises:
        VestigeError: The grid is empty, controls are too few, or nothing was asked.

    Source:
        Karvonen et al. 2025, *SAEBench*, arXiv:2503.09532. The control is ours.
    """
    if not grid:
        raise VestigeError("unlearning_score needs at least one edit, and the grid is empty")
    if len(controls) < DRAWS:
        raise VestigeError(
            f"a score means nothing without random latents: needed at least {DRAWS} control grids, got {len(controls)}"
        )
    if not 0 <= floor <= 1:
        raise VestigeError(f"floor is an accuracy in [0, 1], got {floor}")
    settings = _measured(grid, forget, side)
    drawn = tuple(best_score(_measured(one, forget, side), floor=floor) for one in controls)
    return UnlearningScore(best_score(settings, floor=floor), settings, floor, drawn)


def best_score(settings: Sequence[Setting], *, floor: float) -> float:
    """Return `1 - min forget accuracy` over the settings whose side accuracy is at least `floor`; 0 without any."""
    kept = [one.forget for one in settings if one.side >= floor]
    return 1 - min(kept) if kept else 0.0


def pooled_accuracy(answers: Answers | Sequence[Answers]) -> float:
    """Return the accuracy over all questions together.

    Raises:
        VestigeError: Nothing was asked.
    """
    subjects = [answers] if isinstance(answers, Answers) else list(answers)
    asked = sum(one.asked for one in subjects)
    if not asked:
        raise VestigeError("an accuracy needs at least one question, and nothing was asked")
    return sum(one.correct for one in subjects) / asked


def density_matched(
    statistics: GroupStatistics, latents: Sequence[int], *, draws: int = DRAWS, nearest: int = 20, seed: int = 0
) -> list[list[int]]:
    """Draw random latents that fire about as often as some others, each among its nearest in number of tokens.

    Args:
        statistics: Of the tokens that frequencies are compared on, e.g. of all items together.
        latents: Which are to be matched; none of them is drawn.
        draws: How many sets.
        nearest: Among how many candidates a latent is drawn.
        seed: Of the draws.

    Raises:
        VestigeError: The SAE has too few latents, a latent does not exist, or a number is below 1.
    """
    check_counts(draws=draws, nearest=nearest)
    latents = existing(latents, statistics.d_sae)
    others = np.setdiff1d(np.arange(statistics.d_sae), np.asarray(latents, dtype=np.int64))
    if len(others) < len(latents):
        raise VestigeError(f"an SAE of {statistics.d_sae} latents has no {len(latents)} others to match {len(latents)}")
    rng = np.random.default_rng(seed)
    counts = statistics.n_active
    found: list[list[int]] = []
    for _ in range(draws):
        free, chosen = others.copy(), []
        for j in latents:
            near = free[np.argsort(np.abs(counts[free] - counts[j]), kind="stable")[:nearest]]
            chosen.append(int(rng.choice(near)))
            free = free[free != chosen[-1]]
        found.append(chosen)
    return found


def _measured(grid: Mapping[str, Intervention], forget: Any, side: Any) -> tuple[Setting, ...]:
    return tuple(
        Setting(name, pooled_accuracy(forget(edit)), pooled_accuracy(side(edit))) for name, edit in grid.items()
    )
