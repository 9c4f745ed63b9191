"""Can the right answer be read off the residual stream? A linear probe that maps residuals to the direction of the answer's token.

It is taught on facts that were kept and asked about facts that were forgotten, so it can only use what the model computes for any fact,
never the forgotten answers themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from hooked import VestigeError

PENALTIES = tuple(10.0**power for power in range(-1, 6))


@dataclass(frozen=True)
class AnswerProbe:
    """A fitted map from residuals to token directions.

    Args:
        pipeline: Standardisation and ridge regression.
        directions: Unit direction of every token `[d_vocab, d_model]`.
    """

    pipeline: Pipeline
    directions: Float[np.ndarray, "d_vocab d_model"]

    def scores(
        self, acts: Float[np.ndarray, "n d_model"], tokens: Int[np.ndarray, "n candidates"]
    ) -> Float[np.ndarray, "n candidates"]:
        """Return how well each candidate token fits each residual."""
        predicted = self.pipeline.predict(acts)
        found: Float[np.ndarray, "n candidates"] = np.einsum("nd,ncd->nc", predicted, self.directions[tokens])
        return found


def fit_answer_probe(
    acts: Float[np.ndarray, "n d_model"], answers: Int[np.ndarray, " n"], *, W_U: Float[np.ndarray, "d_model d_vocab"]
) -> AnswerProbe:
    """Fit the probe by ridge regression, its penalty chosen by leave-one-out error on the fitting items.

    Args:
        acts: Residuals at the last prompt token.
        answers: First token of the right answer to each.
        W_U: Unembedding of the original model, whose columns, centred and scaled to length 1, stand for the tokens.

    Raises:
        VestigeError: Fewer than 10 items, or fewer than 2 different answers.
    """
    if len(acts) < 10 or len(np.unique(answers)) < 2:
        raise VestigeError(
            f"an answer probe is fitted on at least 10 items with 2 different answers, got {len(acts)} with {len(np.unique(answers))}"
        )
    directions = W_U.T - W_U.mean(1)
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True).clip(1e-12)
    pipeline = make_pipeline(StandardScaler(), RidgeCV(alphas=PENALTIES))
    pipeline.fit(acts.astype(np.float64), directions[answers].astype(np.float64))
    return AnswerProbe(pipeline, directions)


def win_rates(
    probe: AnswerProbe,
    acts: Float[np.ndarray, "n d_model"],
    right: Int[np.ndarray, " n"],
    wrong: list[Int[np.ndarray, " wrong"]],
) -> Float[np.ndarray, " n"]:
    """Return, per item, the share of wrong answers that score below the right one (ties count half); chance is 0.5.

    Args:
        probe: A fitted probe.
        acts: Residuals of the items.
        right: First token of the right answer.
        wrong: First tokens of each item's wrong answers; those equal to the right one are ignored.

    Raises:
        VestigeError: An item has no wrong answer left.
    """
    rates = []
    for row, token, others in zip(acts, right, wrong, strict=True):
        rest = np.array([t for t in others if t != token], dtype=int)
        if not len(rest):
            raise VestigeError("an item has no wrong answer that begins with another token than the right one")
        scores = probe.scores(row[None], np.concatenate([[token], rest])[None].astype(int))[0]
        rates.append(float((scores[1:] < scores[0]).mean() + 0.5 * (scores[1:] == scores[0]).mean()))
    return np.array(rates)
