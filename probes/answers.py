"""Can the right answer be read off the residual stream? A linear probe that maps residuals to the direction of the
answer's token.

It is taught on facts that were kept and asked about facts that were forgotten, so it can only use what the model
computes for any fact, never the forgotten answers themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from hooked import VestigeError
from probes.held_out import one_blas_thread

PENALTIES = tuple(10.0**power for power in range(-1, 6))


@dataclass(frozen=True)
class AnswerProbe:
    """A fitted map from residuals to token directions.

    Args:
        pipeline: Standardisation and ridge regression.
        directions: Unit direction of every token `[n_tokens, d_model]`.
    """

    pipeline: Pipeline
    directions: Float[np.ndarray, "n_tokens d_model"]

    def scores(self, acts: Float[np.ndarray, "n d_model"]) -> Float[np.ndarray, "n n_tokens"]:
        """Return how well each token fits each residual."""
        found: Float[np.ndarray, "n n_tokens"] = self.pipeline.predict(acts) @ self.directions.T
        return found


def fit_answer_probe(
    acts: Float[np.ndarray, "n d_model"], answers: Int[np.ndarray, " n"], *, W_U: Float[np.ndarray, "d_model n_tokens"]
) -> AnswerProbe:
    """Fit the probe by ridge regression, its penalty chosen by leave-one-out error on the fitting items.

    Args:
        acts: Residuals at the last prompt token.
        answers: First token of the right answer to each, as a column of `W_U`.
        W_U: Unembedding of the original model, or the columns of the tokens that matter: centred and scaled to length
            1, they stand for the tokens.

    Raises:
        VestigeError: Fewer than 10 items, or fewer than 2 different answers.
    """
    if len(acts) < 10 or len(np.unique(answers)) < 2:
        raise VestigeError(
            "an answer probe is fitted on at least 10 items with 2 different answers, "
            f"got {len(acts)} with {len(np.unique(answers))}"
        )
    directions = W_U.T.astype(np.float64) - W_U.mean(1)
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True).clip(1e-12)
    pipeline = make_pipeline(StandardScaler(), RidgeCV(alphas=PENALTIES))
    with one_blas_thread():
        pipeline.fit(acts.astype(np.float64), directions[answers])
    return AnswerProbe(pipeline, directions)


def win_rates(
    scores: Float[np.ndarray, "n n_tokens"], right: Int[np.ndarray, " n"], wrong: Bool[np.ndarray, "n n_tokens"]
) -> Float[np.ndarray, " n"]:
    """Return, per item, the share of wrong answers that score below the right one; ties count half.

    A token's score counts relative to its mean over all items, so that only what sets an item apart from the others can
    win: the tokens that a probe was taught score high whatever the item, and would win without that. Chance is 0.5.

    Args:
        scores: Of every token on every item.
        right: Column of the right answer.
        wrong: Which columns are wrong answers; the right one may be marked and is ignored.

    Raises:
        VestigeError: An item has no wrong answer.
    """
    rows = np.arange(len(scores))
    against = wrong.copy()
    against[rows, right] = False
    if not against.any(1).all():
        raise VestigeError(f"item {int(np.argmin(against.any(1)))} has no wrong answer but the right one")
    relative = scores - scores.mean(0)
    mine = relative[rows, right][:, None]
    won = (relative < mine) + 0.5 * (relative == mine)
    share: Float[np.ndarray, " n"] = (won * against).sum(1) / against.sum(1)
    return share
