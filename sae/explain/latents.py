"""How readable latents are, without a language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from hooked import HookedModel
from sae.chosen import existing
from sae.explain.embed import Embedding, check_embedding, tfidf
from sae.explain.intruder import fires, internal_intruder, intruder, judged_by, least_similar
from sae.explain.proportion import Proportion
from sae.explain.similarity import EmbeddingScore, embedding_score
from sae.explain.windows import TooFewError, Windows, read_windows, window_texts
from sae.read import read_coder
from sae.search.arguments import check_counts


@dataclass(frozen=True)
class Explanation:
    """Scores of one latent; a score that there are too few windows for is None, with the reason in `missing`.

    Args:
        latent: Which latent.
        intruder: Intruders are windows where it is silent.
        hard: Intruders are silent windows where `neighbour` fires.
        internal: Intruders are windows where it fires at another strength; at chance for a latent of one meaning.
        embedding: Likeness to other activating windows.
        neighbour: The latent with the most similar decoder row.
        missing: Why a score is None.
    """

    latent: int
    intruder: Proportion | None
    hard: Proportion | None
    internal: Proportion | None
    embedding: EmbeddingScore | None
    neighbour: int
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        auc = "none" if self.embedding is None else f"{self.embedding.auc:.2f}, chance 0.50"
        return (
            f"latent {self.latent}: intruder {self.intruder}; hard (latent {self.neighbour}) {self.hard}; "
            f"internal {self.internal}; embedding AUC {auc}"
        )


def explain_latents(
    model: HookedModel,
    sae: Any,
    latents: Sequence[int],
    texts: Sequence[Any],
    *,
    embed: Callable[[Windows], Embedding] = tfidf,
    ask: Callable[[Sequence[str]], int] | None = None,
    width: int = 16,
    shown: int = 4,
    trials: int = 100,
    seed: int = 0,
    **settings: Any,
) -> tuple[Explanation, ...]:
    """Score how alike the windows are that activate each latent.

    A high score says that windows are alike in the embedding, not what they share, and not that the latent causes
    anything.

    Args:
        model: A model, or a view of one.
        sae: A `sae_lens.SAE` or a `Coder`.
        latents: Which.
        texts: Where they fire, and where they do not.
        embed: `tfidf`, or `partial(mean_acts, model, site=...)` with a site before the SAE's.
        ask: Somebody, e.g. a language model, who is shown texts and answers which place (from 0) does not belong;
            decides trials instead of the embedding.
        width: Tokens of a window.
        shown: Activating windows of a trial.
        trials: Trials of each score.
        seed: Of all draws.
        settings: As in `sae.stream.stream`.

    Raises:
        VestigeError: A latent does not exist, `trials` is below 1, no text is as long as a window, or the SAE does not
            fit the model.
    """
    coder = read_coder(sae)
    check_counts(trials=trials)
    chosen = existing(latents, coder.d_sae)
    windows = read_windows(model, coder, texts, width=width, **settings)
    embedding = embed(windows)
    check_embedding(embedding, windows)
    judge = least_similar(embedding) if ask is None else judged_by(ask, window_texts(model, windows))
    how: dict[str, Any] = {"shown": shown, "trials": trials, "seed": seed}
    found = []
    for latent in chosen:
        neighbour = nearest(coder.decoder, latent)
        close = fires(windows, neighbour)
        scores = [
            _tried(partial(intruder, windows, latent, judge, **how)),
            _tried(partial(intruder, windows, latent, judge, candidates=close, **how)),
            _tried(partial(internal_intruder, windows, latent, judge, **how)),
            _tried(partial(embedding_score, windows, latent, embedding, seed=seed)),
        ]
        reasons = tuple(score for score in scores if isinstance(score, str))
        known: list[Any] = [None if isinstance(score, str) else score for score in scores]
        found.append(
            Explanation(
                latent=latent,
                intruder=known[0],
                hard=known[1],
                internal=known[2],
                embedding=known[3],
                neighbour=neighbour,
                missing=reasons,
            )
        )
    return tuple(found)


def _tried(score: Callable[[], Any]) -> Any:
    """Return a score, or the reason why there is none."""
    try:
        return score()
    except TooFewError as error:
        return str(error)


def nearest(decoder: torch.Tensor, latent: int) -> int:
    """Return the latent whose decoder row is most similar to that of another."""
    rows = torch.nn.functional.normalize(decoder.float(), dim=-1)
    cosines = rows @ rows[latent]
    cosines[latent] = -torch.inf
    return int(cosines.argmax())
