"""How a shape is decided: terms that are read off the numbers of one seed, and comparisons between them.

Margins are the same throughout and were written down before the seeds were asked: 0.05 between two numbers that lie in
[0, 1], 0.1 where an attack brings something back, 0.02 for utility, one decade for p-values, ten points for PrivLeak,
and a quarter more for times.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import isfinite

Numbers = Mapping[str, Mapping[str, float]]
APART, RECOVERED, KEPT, DECADE, POINTS, SOONER = 0.05, 0.1, 0.02, 1.0, 10.0, 1.25
# Sources that are no papers.
OWN = ("specification", "toy measurement")


@dataclass(frozen=True)
class Term:
    """A number of one seed; NaN where it was not measured, so that every comparison with it fails."""

    label: str
    read: Callable[[Numbers], float]


@dataclass(frozen=True)
class Claim:
    """What decides a shape.

    Args:
        terms: What is looked at, in the order in which it is shown.
        holds: Whether one seed shows it.
    """

    terms: tuple[Term, ...]
    holds: Callable[[Numbers], bool]


@dataclass(frozen=True)
class Shape:
    """A direction that is reported of a metric or an attack.

    Args:
        section: Where the specification has it: of metrics and attacks, or of text unlearning (`text`) or of vision.
        source: Paper, benchmark page or measurement it comes from.
        says: The direction in words, with the margin.
        claim: What decides it.
        given: Whether it holds by construction, so that it shows nothing but that an instrument is wired up.
    """

    section: str
    source: str
    says: str
    claim: Claim
    given: bool = False

    @property
    def kind(self) -> str:
        """`given`, `own` where no paper but the specification reports it, or `published`."""
        return "given" if self.given else "own" if self.source in OWN else "published"


def rising(*terms: Term, by: float) -> Claim:
    """Decide that each term is above the one before by more than a margin."""
    return Claim(terms, lambda n: all(b.read(n) - a.read(n) > by for a, b in pairwise(terms)))


def above(bound: float, *terms: Term) -> Claim:
    """Decide that every term is above a bound."""
    return Claim(terms, lambda n: all(t.read(n) > bound for t in terms))


def below(bound: float, *terms: Term) -> Claim:
    """Decide that every term is below a bound."""
    return Claim(terms, lambda n: all(t.read(n) < bound for t in terms))


def near(target: float, *terms: Term, within: float) -> Claim:
    """Decide that every term is at most so far from a value."""
    return Claim(terms, lambda n: all(abs(t.read(n) - target) <= within for t in terms))


def alike(*terms: Term, within: float) -> Claim:
    """Decide that no two terms are further apart than this."""

    def holds(n: Numbers) -> bool:
        values = [t.read(n) for t in terms]
        return all(map(isfinite, values)) and max(values) - min(values) <= within

    return Claim(terms, holds)


def both(*claims: Claim) -> Claim:
    """Decide that all claims hold."""
    terms = tuple(dict.fromkeys(term for claim in claims for term in claim.terms))
    return Claim(terms, lambda n: all(claim.holds(n) for claim in claims))


def some(what: str, subjects: Sequence[str], *each: Callable[[str], Claim], least: int = 1) -> Claim:
    """Decide that there are at least so many subjects for which every claim holds; the number of them is shown."""

    def count(n: Numbers) -> float:
        return float(sum(all(claim(s).holds(n) for claim in each) for s in subjects))

    return Claim((Term(what, count),), lambda n: count(n) >= least)
