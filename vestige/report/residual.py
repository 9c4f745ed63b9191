"""The residual knowledge score in plain words."""

from __future__ import annotations

from ..result import ResidualKnowledge
from .explain import explain

PLACED = {
    "suppression": "Measured: suppression, the knowledge is still in it.",
    "mixed": "Measured: between suppression and removal.",
    "removal": "Measured: removal, as far as these instruments see.",
}


def sentence(residual: ResidualKnowledge) -> str:
    """Return what the score says of a subject."""
    claim = f"{_percent(residual.probability)} that it still holds the facts"
    if residual.abstains and residual.instruments == "checks":
        claim = "no claim, since what only attacks bring back was not looked for"
    elif residual.abstains:
        claim = f"too unsure for a claim ({claim})"
    heard = f", heard most in “{_named(residual.loudest)}”" if residual.loudest else ""
    beyond = "" if residual.instruments != "checks" else " without attacks"
    unheard = f" ({len(residual.missing)} of its instruments could not be used)" if residual.missing else ""
    return f"Residual knowledge{beyond} {residual.score:.2f}{heard}: {claim}{unheard}."


def _named(instrument: str) -> str:
    kind, _, attack = instrument.partition(":")
    return f"attack {attack.replace('_', ' ')}" if attack else explain(kind).title


def _percent(probability: float) -> str:
    if 0.01 <= probability <= 0.99:
        return f"{probability:.0%}"
    return "above 99%" if probability > 0.5 else "below 1%"
