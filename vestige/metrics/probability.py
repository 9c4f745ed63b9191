"""How likely a model finds an answer, from the log-probabilities of its tokens."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hooked.errors import VestigeError

from ._checks import ROUNDING, nlls, numbers


def seq_prob(log_probs: npt.ArrayLike) -> float:
    """Return the length-normalised probability of one answer, `exp(mean_t log p_t)`.

    higher_is: leaky on forget items, useful on retain items. Range [0, 1]. Floor: 1 / d_vocab for a model that knows
    nothing at all; the never-taught model is the honest one, since style and grammar alone make an answer likely.

    Args:
        log_probs: Natural log-probability of each answer token `[n_tokens]`; minus infinity is a token of probability
            0.

    Raises:
        VestigeError: No token, NaN, or a log-probability above 0.

    Source:
        Maini et al., *TOFU*, arXiv:2401.06121, "probability".
    """
    values = numbers(log_probs, "log_probs", allow_inf=True)
    if values.max() > ROUNDING:
        raise VestigeError(f"log-probabilities cannot be above 0, got {values.max():g}; were logits or NLLs passed?")
    return float(min(1.0, np.exp(values.mean())))


def choice_prob(answer_nll: float, wrong_nll: npt.ArrayLike) -> float:
    """Return the share of the right answer among the listed ones, `P / (P + sum_i P_i)` `P = exp(-nll)`.

    higher_is: leaky on forget items, useful elsewhere. Range [0, 1]. Floor: 1 / (1 + number of wrong answers).

    Args:
        answer_nll: Mean token NLL of the right answer, in nats. NLLs rather than probabilities, which underflow on
            ruined models.
        wrong_nll: Mean token NLL of each wrong answer `[n_wrong]`.

    Raises:
        VestigeError: No wrong answer, NaN, an NLL below 0, or every answer has probability 0.

    Source:
        Maini et al., *TOFU*, arXiv:2401.06121, probability on real authors and world facts.
    """
    nll = np.concatenate([nlls([answer_nll], "answer_nll"), nlls(wrong_nll, "wrong_nll")])
    best = nll.min()
    if not np.isfinite(best):
        raise VestigeError("choice_prob needs an answer of probability above 0, but every listed one has probability 0")
    shares = np.exp(best - nll)
    return float(shares[0] / shares.sum())
