"""The residual knowledge score in plain words."""

from __future__ import annotations

from math import isnan

from ..result import AuditReport, ResidualKnowledge
from .explain import explain


def of_control(report: AuditReport) -> ResidualKnowledge | None:
    """Return what the score says of the model that never learnt the facts, else of the one retrained without them."""
    scored = {one.subject: one for one in report.residual}
    kinds = {s.kind: scored[s.name] for s in report.subjects if s.name in scored}
    return kinds.get("never", kinds.get("retrained"))


def together(residual: ResidualKnowledge) -> str:
    """Name what the score listened to, with the score: continues a sentence whose verb is plural."""
    said = [f"score {residual.score:.2f}"]
    if residual.loudest:
        said.append(f"heard most in “{_named(residual.loudest)}”")
    if residual.missing:
        said.append(f"{len(residual.missing)} of the instruments could not be used")
    what = "all checks" if residual.instruments == "checks" else "all checks and attacks"
    return f"{what} together ({', '.join(said)})"


def probability(residual: ResidualKnowledge) -> str:
    """Return the probability without the precision that it does not have at its ends."""
    if isnan(residual.probability):
        return "no number"
    if 0.01 <= residual.probability <= 0.99:
        return f"{residual.probability:.0%}"
    return "above 99%" if residual.probability > 0.5 else "below 1%"


def _named(instrument: str) -> str:
    kind, _, attack = instrument.partition(":")
    return f"attack {attack.replace('_', ' ')}" if attack else explain(kind).title
