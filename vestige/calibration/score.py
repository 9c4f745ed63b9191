"""The residual knowledge score: what the instruments of an audit say together, as a probability that a model still
holds the facts.

Each instrument gives a share: 0 for a model that never knew, 1 for the original. A logistic regression with no negative
weight turns their square roots into a probability; where instruments that should agree do not, it abstains. Where an
audit lacks instruments, the regression is fitted again on those that it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import isfinite
from typing import Any

import numpy as np
import numpy.typing as npt
from jaxtyping import Bool, Float

from hooked import VestigeError

# What is weighed.
OF = "square roots of shares"
# Between these probabilities nothing is claimed.
UNSURE = (0.1, 0.9)
# Strongest first: of two that predict as well, the simpler one. None is weaker, since on models that are told apart
# without error a weaker one only makes probabilities steeper.
PENALTIES = (3.0, 1.0, 0.3, 0.1, 0.03, 0.01)


def _root(shares: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return square roots of shares, cut to [0, 1], on which a tenth stands a third of the way from nothing to all."""
    inside: npt.NDArray[np.float64] = np.clip(np.asarray(shares, dtype=np.float64), 0, 1)
    return np.sqrt(inside)


@dataclass(frozen=True)
class Residual:
    """What the score says of one model.

    Args:
        score: Weighted mean of the square roots of the shares: 0 as a model that never knew, 1 as the original. Where
            all instruments find a tenth it is 0.32, where they find a quarter 0.5.
        probability: That the model still holds the facts.
        abstains: Whether no claim is made: the probability lies between 0.1 and 0.9, or instruments with more than half
            of the weight could not be used.
        loudest: The instrument with the largest part in the score; None where every share is 0.
        missing: Instruments that could not be used.
    """

    score: float
    probability: float
    abstains: bool
    loudest: str | None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Models:
    """What a score was fitted on.

    Args:
        knows: Whether each model holds the facts.
        shares: Instrument to the share of each model; None where it could not be used.
    """

    knows: tuple[bool, ...]
    shares: Mapping[str, tuple[float | None, ...]] = field(hash=False)

    def to_json(self) -> dict[str, Any]:
        """Return the models as JSON values."""
        return {"knows": list(self.knows), "shares": {name: list(column) for name, column in self.shares.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Models:
        """Return the models that `to_json` wrote.

        Raises:
            VestigeError: A field is missing or has another form.
        """
        try:
            columns = {str(k): tuple(None if v is None else float(v) for v in c) for k, c in data["shares"].items()}
            knows = tuple(map(bool, data["knows"]))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise VestigeError(f"not what a residual score was fitted on: {error}") from error
        uneven = [name for name, column in columns.items() if len(column) != len(knows)]
        if uneven:
            raise VestigeError(f"not what a residual score was fitted on: {uneven[0]} has not one share for each model")
        return cls(knows, columns)


@dataclass(frozen=True)
class ResidualScore:
    """A fitted score.

    Args:
        instruments: Names of the shares.
        weights: One per instrument, none below 0.
        bias: Log-odds of a model on which every share is 0.
        penalty: Of the fit.
        models: What it was fitted on, and is again where instruments are missing.
    """

    instruments: tuple[str, ...]
    weights: tuple[float, ...]
    bias: float
    penalty: float = 1.0
    models: Models | None = None

    def __call__(self, shares: Mapping[str, float | None]) -> Residual:
        """Return what the score says of a model with these shares.

        Where an instrument could not be used, the score is fitted again without it.

        Raises:
            VestigeError: No instrument of the score has a share, or one has none and the score does not say what it was
                fitted on.
        """
        given = {
            name: share for name in self.instruments if (share := shares.get(name)) is not None and isfinite(share)
        }
        if not given:
            raise VestigeError(f"a residual score needs at least one of {', '.join(self.instruments)}")
        missing = tuple(name for name in self.instruments if name not in given)
        heard = _refitted(self, tuple(given)) if missing else self
        weights = dict(zip(heard.instruments, heard.weights, strict=True))
        parts = {name: weights[name] * float(_root(share)) for name, share in given.items()}
        whole = sum(heard.weights)
        score = sum(parts.values()) / whole if whole else 0.0
        probability = float(1 / (1 + np.exp(-(heard.bias + sum(parts.values())))))
        loudest = max(parts, key=parts.__getitem__)
        usual = dict(zip(self.instruments, self.weights, strict=True))
        few = sum(usual[name] for name in given) < sum(self.weights) / 2
        return Residual(
            score=score,
            probability=probability,
            abstains=few or UNSURE[0] < probability < UNSURE[1],
            loudest=loudest if parts[loudest] > 0 else None,
            missing=missing,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the score as JSON values, without what it was fitted on."""
        return {
            "of": OF,
            "instruments": list(self.instruments),
            "weights": list(self.weights),
            "bias": self.bias,
            "penalty": self.penalty,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], models: Models | None = None) -> ResidualScore:
        """Return the score that `to_json` wrote.

        Args:
            data: What it wrote.
            models: What the score was fitted on.

        Raises:
            VestigeError: A field is missing or has another form.
        """
        try:
            if data["of"] != OF:
                raise VestigeError(f"not a residual score: it weighs {data['of']}, and this one weighs {OF}")
            names, weights = tuple(map(str, data["instruments"])), tuple(map(float, data["weights"]))
            return cls(names, weights, float(data["bias"]), float(data["penalty"]), models)
        except (KeyError, TypeError, ValueError) as error:
            raise VestigeError(f"not a residual score: {error}") from error


@lru_cache(maxsize=256)
def _refitted(score: ResidualScore, instruments: tuple[str, ...]) -> ResidualScore:
    """Return the score that has some of the instruments alone, under the same penalty."""
    if score.models is None:
        lacking = next(name for name in score.instruments if name not in instruments)
        raise VestigeError(f"a residual score that does not say what it was fitted on needs {lacking}")
    unknown = [name for name in instruments if name not in score.models.shares]
    if unknown:
        raise VestigeError(f"the models of a residual score have no shares of {unknown[0]}")
    columns = [[np.nan if v is None else v for v in score.models.shares[name]] for name in instruments]
    return fit_residual_score(np.array(columns).T, np.array(score.models.knows), instruments, penalty=score.penalty)


def _rows(shares: Float[npt.NDArray[Any], "n n_instruments"]) -> Float[npt.NDArray[np.float64], "n n_instruments"]:
    """Return roots of shares, the mean root of the model's others where one is missing."""
    inside, measured = _root(shares), ~np.isnan(shares)
    own = np.where(measured, inside, 0.0).sum(1) / np.maximum(1, measured.sum(1))
    # An instrument that was never measured is 0 everywhere, and gets no weight.
    rows: Float[npt.NDArray[np.float64], "n n_instruments"] = np.where(
        measured, inside, np.where(measured.any(0), own[:, None], 0.0)
    )
    return rows


def choose_penalty(
    shares: Float[npt.NDArray[Any], "n n_instruments"],
    knows: Bool[npt.NDArray[Any], " n"],
    instruments: Sequence[str],
    groups: Sequence[object],
) -> float:
    """Return the penalty under which models of a group that was left out are predicted best (log-likelihood).

    Args:
        shares: As for `fit_residual_score`.
        knows: Likewise.
        instruments: Likewise.
        groups: What models share, e.g. the concept: one group is left out at a time.

    Raises:
        VestigeError: As `fit_residual_score`, also where a kind is missing without one of the groups.
    """
    index = np.array([list(dict.fromkeys(groups)).index(group) for group in groups])

    def cost(penalty: float) -> float:
        total = 0.0
        for held in range(int(index.max()) + 1):
            out = index == held
            score = fit_residual_score(shares[~out], knows[~out], instruments, penalty=penalty)
            log_odds = _rows(shares[out]) @ np.array(score.weights) + score.bias
            total += float(np.logaddexp(0, np.where(knows[out], -log_odds, log_odds)).sum())
        return total

    return min(PENALTIES, key=cost)


def fit_residual_score(
    shares: Float[npt.NDArray[Any], "n n_instruments"],
    knows: Bool[npt.NDArray[Any], " n"],
    instruments: Sequence[str],
    *,
    penalty: float = 1.0,
) -> ResidualScore:
    """Fit the score by penalised maximum likelihood under weights of at least 0: more evidence
    never means less knowledge.

    Args:
        shares: One row per model; NaN where an instrument could not be used, which the mean root of the model's shares
            replaces.
        knows: Whether each model holds the facts. The two kinds weigh the same, however many there are of each.
        instruments: Names of the columns.
        penalty: Half the squared length of the weights costs this much log-likelihood, in models.

    Raises:
        VestigeError: Shapes do not fit, or one of the kinds is missing.
    """
    from scipy.optimize import minimize

    if shares.shape != (len(knows), len(instruments)):
        raise VestigeError(
            f"shares have shape [models, instruments] = [{len(knows)}, {len(instruments)}], got {list(shares.shape)}"
        )
    if knows.all() or not knows.any():
        raise VestigeError("a residual score is fitted on models that know and models that do not")
    rows = _rows(shares)
    signs = np.where(knows, 1.0, -1.0)
    each = np.where(knows, 0.5 / knows.mean(), 0.5 / (~knows).mean())

    def loss(parameters: npt.NDArray[np.float64]) -> tuple[float, npt.NDArray[np.float64]]:
        weights, bias = parameters[:-1], parameters[-1]
        margins = signs * (rows @ weights + bias)
        slope = -each * signs / (1 + np.exp(margins))
        value = float((each * np.logaddexp(0, -margins)).sum() + penalty * 0.5 * weights @ weights)
        return value, np.append(rows.T @ slope + penalty * weights, slope.sum())

    start = np.zeros(len(instruments) + 1)
    bounds = [(0.0, None)] * len(instruments) + [(None, None)]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds)
    columns = {
        name: tuple(None if np.isnan(v) else float(v) for v in column)
        for name, column in zip(instruments, shares.T, strict=True)
    }
    models = Models(tuple(map(bool, knows)), columns)
    return ResidualScore(tuple(instruments), tuple(found.x[:-1].tolist()), float(found.x[-1]), penalty, models)
