"""How little a text looks like training data, by the log-probabilities a model gives to its tokens.

Every score is low for a text the model was trained on and high for one it was not: only the order of scores counts, and
only in `vestige.metrics.privacy`. The tokens are those of the answer alone, without an end-of-sequence token.
"""

from __future__ import annotations

import zlib
from math import floor

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from hooked.errors import VestigeError

from ._checks import ROUNDING, check_same_length, nlls, numbers

_LEAST_VARIANCE = 1e-6


def loss_score(log_probs: npt.ArrayLike) -> float:
    """Return the mean negative log-probability of the tokens, in nats.

    higher_is: forgotten. Range [0, inf]. Floor: none.

    Args:
        log_probs: Natural log-probability of each token `[n_tokens]`; minus infinity is a token of probability 0.

    Raises:
        VestigeError: No token, NaN, or a log-probability above 0.

    Source:
        Yeom et al. 2018, arXiv:1709.01604.
    """
    return float(-_log_probs(log_probs).mean())


def zlib_score(log_probs: npt.ArrayLike, text: str) -> float:
    """Return the mean negative log-probability over the length of the compressed text, in nats per byte.

    A text that any compressor finds easy is easy for a model too, trained on it or not.

    higher_is: forgotten. Range [0, inf]. Floor: none.

    Args:
        log_probs: As in `loss_score`.
        text: The same tokens as text; another decoding of them is another score.

    Raises:
        VestigeError: As in `loss_score`.

    Source:
        Carlini et al. 2021, arXiv:2012.07805.
    """
    return loss_score(log_probs) / len(zlib.compress(text.encode()))


def min_k_score(log_probs: npt.ArrayLike, *, k: float = 0.2) -> float:
    """Return the negative mean of the lowest `max(1, floor(k n))` log-probabilities, in nats.

    higher_is: forgotten. Range [0, inf]. Floor: none.

    Args:
        log_probs: As in `loss_score`.
        k: Share of the tokens, above 0 and at most 1. MUSE and TOFU take 0.4.

    Raises:
        VestigeError: As in `loss_score`; `k` is out of range.

    Source:
        Shi et al. 2023, arXiv:2310.16789. MUSE gives NaN where `k n` is below 1; here one token is left.
    """
    return _lowest(_log_probs(log_probs), k)


def min_k_plus_plus_score(
    log_probs: npt.ArrayLike, means: npt.ArrayLike, variances: npt.ArrayLike, *, k: float = 0.2
) -> float:
    """Return Min-K% of `z_t = (log p(x_t) - mean_t) / sqrt(max(variance_t, 1e-6))`.

    Each log-probability counts relative to what the model expected at that place: a token is surprising among others
    that were not. Where the model expects all tokens alike, z is 0.

    higher_is: forgotten. Range (-inf, inf]. Floor: none.

    Args:
        log_probs: As in `loss_score`.
        means: Expected log-probability at each place `[n_tokens]`; `log_prob_moments` gives both.
        variances: Its variance.
        k: As in `min_k_score`.

    Raises:
        VestigeError: As in `min_k_score`; the lengths differ, or a variance is below 0.

    Source:
        Zhang et al. 2024, arXiv:2404.02936.
    """
    values, centre, spread = _log_probs(log_probs), numbers(means, "means"), numbers(variances, "variances")
    check_same_length(log_probs=values, means=centre, variances=spread)
    if spread.min() < -ROUNDING:
        raise VestigeError(f"a variance cannot be below 0, got {spread.min():g} at token {spread.argmin()}")
    return _lowest((values - centre) / np.sqrt(np.maximum(spread, _LEAST_VARIANCE)), k)


def log_prob_moments(
    log_probs: Float[np.ndarray, "*places d_vocab"],
) -> tuple[Float[np.ndarray, "*places"], Float[np.ndarray, "*places"]]:
    """Return the mean and the variance of log p under p itself, at each place.

    `mean = sum p log p`, `variance = sum p (log p - mean)^2`; a token of probability 0 adds nothing.

    Args:
        log_probs: Log-probabilities of the whole vocabulary.
    """
    wide = log_probs.astype(np.float64)
    p = np.exp(wide)
    finite = np.where(p > 0, wide, 0.0)
    mean = (p * finite).sum(-1)
    return mean, (p * (finite - mean[..., None]) ** 2).sum(-1)


def reference_score(loss: float, reference_loss: float) -> float:
    """Return how much likelier a reference model finds the text, `loss - reference_loss`, in nats per token.

    higher_is: forgotten. Range [-inf, inf]. Floor: none; 0 is the reference itself.

    Args:
        loss: `loss_score` under the model.
        reference_loss: Under a model that was not trained on the text.

    Raises:
        VestigeError: NaN, a loss below 0, or both infinite.

    Source:
        Carlini et al. 2022, arXiv:2112.03570, with one reference model.
    """
    mine, reference = nlls([loss, reference_loss], "losses")
    if np.isinf(mine) and np.isinf(reference):
        raise VestigeError("both models give the text probability 0, so there is no difference; leave the text out")
    return float(mine - reference)


def lowercase_score(loss: float, lowercase_loss: float) -> float:
    """Return the loss of a text over that of the same text in lower case.

    A text that was seen is much likelier as it was written; texts without capitals all score 1.

    higher_is: forgotten. Range [0, inf]. Floor: none.

    Args:
        loss: `loss_score` of the text.
        lowercase_loss: `loss_score` of `text.lower()` under the same model.

    Raises:
        VestigeError: NaN, a loss below 0, or 0/0 and its like.

    Source:
        Carlini et al. 2021, arXiv:2012.07805, as in MUSE, arXiv:2407.06460.
    """
    mine, lower = nlls([loss, lowercase_loss], "losses")
    if mine == lower == 0 or (np.isinf(mine) and np.isinf(lower)):
        raise VestigeError(f"the ratio of two losses of {mine:g} is undefined; leave the text out")
    return float("inf") if lower == 0 else float(mine / lower)


def _log_probs(log_probs: npt.ArrayLike) -> Float[np.ndarray, " n_tokens"]:
    values = numbers(log_probs, "log_probs", allow_inf=True)
    if values.max() > ROUNDING:
        raise VestigeError(f"log-probabilities cannot be above 0, got {values.max():g}; were logits or NLLs passed?")
    capped: Float[np.ndarray, " n_tokens"] = np.minimum(values, 0.0)
    return capped


def _lowest(values: Float[np.ndarray, " n_tokens"], k: float) -> float:
    if not 0 < k <= 1:
        raise VestigeError(f"k is a share of the tokens above 0 and at most 1, got {k}")
    # 0.29 * 100 is a little below 29.
    kept = max(1, floor(k * len(values) + 1e-9))
    return float(-np.sort(values)[:kept].mean())
