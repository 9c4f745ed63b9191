"""The opening paragraph: the audit's question answered in a few sentences from numbers that were measured elsewhere."""

from __future__ import annotations

from dataclasses import replace

from ..result import AuditReport, Result
from ..signs import table_of
from ..stands_out import by_chance
from .residual import probability
from .text import listed, number

OVERALL = "overall"
# With fewer items the 95 % interval of a share near one half is wider than what the verdicts call a trace, 0.2.
FEW = 20
_INSIDE = {"lens_leak": "a logit lens reads the answer", "probe_leak": "a linear probe finds the answer"}
_INTACT = 0.95


def forgotten(report: AuditReport) -> str:
    """Return the names of what was to be forgotten, from `provenance["concepts"]`, or an empty text."""
    found = report.provenance.get("concepts")
    names = [str(name) for name in found if str(name).strip()] if isinstance(found, (list, tuple)) else []
    return listed(names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"])


def few(report: AuditReport) -> str:
    """Return a caution where so few forget items were asked that every share is rough, else an empty text."""
    n = max((r.n for r in report.results if r.check == "forget_probability"), default=FEW)
    if n >= FEW:
        return ""
    items = f"only {n} forget items were" if n != 1 else "only one forget item was"
    return f"Caution: {items} asked (fewer than {FEW}), so other items could move every share by more than a trace."


def answer(report: AuditReport) -> list[str]:
    """Return the paragraph as sentences.

    The audit's own words come first: `verdicts["overall"]`, unless a subject has that name. Without them the numbers
    are read out as they are: what is said, what can be read inside, what the weights hold, and the largest residual
    knowledge score. "Above the control" means that the lower end of the 95 % interval lies above it; a concept vector
    "still points where it did" at a cosine of at least 0.95.
    """
    names = [subject.name for subject in report.subjects]
    if OVERALL in report.verdicts and OVERALL not in names:
        return list(filter(None, [report.verdicts[OVERALL], few(report)]))
    sentences = [_before(report), _says(report), _inside(report), _weights(report), _together(report), few(report)]
    return [sentence for sentence in sentences if sentence] or [
        "Nothing that this paragraph could sum up was measured."
    ]


def _measured(report: AuditReport, check: str, kind: str = "unlearned") -> list[tuple[float, Result]]:
    """Return the measured results of a check on the subjects of one kind, in their order."""
    subjects = [subject.name for subject in report.subjects if subject.kind == kind]
    found = {result.subject: result for result in report.results if result.check == check}
    return [(value, found[name]) for name in subjects if name in found and (value := found[name].estimate) is not None]


def _before(report: AuditReport) -> str:
    originals = _measured(report, "forget_probability", "original")
    if not originals:
        return ""
    value, result = originals[0]
    known = (("a model that never learned them scores", result.control), ("chance is", result.floor))
    beside = "; ".join(f"{words} {number(reference)}" for words, reference in known if reference is not None)
    reference = f" ({beside})" if beside else ""
    return f"Before forgetting, the model gives the right answers with probability {number(value)}{reference}."


def _says(report: AuditReport) -> str:
    rows = sorted(_measured(report, "forget_probability"), key=lambda row: row[0])
    if not rows:
        return ""
    spoken = [f"{number(value)} ({result.subject})" for value, result in rows]
    if len(spoken) == 1:
        return f"Asked after forgetting, it gives them with {spoken[0]}."
    return f"Asked after forgetting, the {len(rows)} models give them with {spoken[0]} to {spoken[-1]}."


def _inside(report: AuditReport) -> str:
    for check, words in _INSIDE.items():
        rows = [
            (value, result)
            for value, result in _measured(report, check)
            if result.low is not None and result.control is not None
        ]
        leaking = [(value, result) for value, result in rows if (result.low or 0.0) > (result.control or 0.0)]
        if not rows:
            continue
        if not leaking:
            return f"Inside, {words} in {_of(0, len(rows))} above the control."
        value, most = max(leaking, key=lambda row: row[0])
        clearest = f"most clearly in {most.subject} ({number(value)}{_where(most)})"
        return f"Inside, {words} above the control in {_of(len(leaking), len(rows))}, {clearest}."
    return ""


def _where(result: Result) -> str:
    layers = result.per_layer
    return f", strongest after layer {max(range(len(layers)), key=layers.__getitem__)}" if layers else ""


def _weights(report: AuditReport) -> str:
    chance = by_chance(report.concept_vectors)
    table = table_of(report.results, () if chance else report.concept_vectors)
    rows = _measured(replace(report, results=tuple(table.values())), "concept_vector_cosine")
    if not rows:
        return ""
    intact = [result.subject for value, result in rows if value >= _INTACT]
    # A vector set to zero has no cosine, and it surely no longer points where it did: such subjects count too.
    total = len([subject for subject in report.subjects if subject.kind == "unlearned"])
    named = f": {listed(intact)}" if 0 < len(intact) < total else ""
    still = f"still point where they did (cosine at least {_INTACT})"
    little = ", but chance gives such vectors too, so that says little" if chance else ""
    return f"In the weights, the concept's vectors {still} in {_of(len(intact), total)}{named}{little}."


def _together(report: AuditReport) -> str:
    unlearned = [subject.name for subject in report.subjects if subject.kind == "unlearned"]
    scored = [one for one in report.residual if one.subject in unlearned]
    if not scored:
        return ""
    most = max(scored, key=lambda one: one.score)
    what = "All checks" if most.instruments == "checks" else "All checks and attacks"
    whom = "it" if len(unlearned) == 1 else most.subject
    score = f"{'a score of' if len(scored) == 1 else 'the largest score,'} {number(most.score)},"
    unsure = ", too unsure for a claim" if most.abstains else ""
    return (
        f"{what} together give {whom} {score} from 0 (never knew) to 1 (before forgetting), and {probability(most)} "
        f"that it still holds any of the facts{unsure}."
    )


def _of(count: int, total: int) -> str:
    if total == 1:
        return "it" if count else "no model"
    return {0: f"none of the {total}", total: f"all {total}"}.get(count, f"{count} of the {total}")
