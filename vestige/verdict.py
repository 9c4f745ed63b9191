"""Plain words for what the numbers of one subject say together. The thresholds are Vestige's and are printed with the verdict's numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vestige.result import Result, SubjectInfo

TRACE = 0.2
HIDDEN = 0.5
KEPT = 0.8
DEGENERATE = 0.5


def verdicts(subjects: Sequence[SubjectInfo], results: Sequence[Result]) -> dict[str, str]:
    """Return a verdict of one or two sentences per subject.

    Every share below runs from the never-taught model (0) to the original (1). A subject *still answers* above 0.2 of the original's forget
    probability; it *hides* the knowledge where the bare weights give back half of it or more; it is *silent but not empty* where the lens or the probe
    keeps more than 0.2; else these checks found no trace. Losing more than a fifth of the retain probability is said, and so are outputs less than half
    as varied as the original's.
    """
    table = {(r.check, r.subject): r for r in results}
    original = subjects[0].name
    return {s.name: _reference(s) or _verdict(s, original, table) for s in subjects}


def _reference(subject: SubjectInfo) -> str | None:
    return {
        "original": "The model before unlearning: the upper end of every scale.",
        "retrained": "Trained without the forget set: what exact unlearning would give.",
        "never": "Never taught the facts: whatever it scores is guessing, the lower end of every scale.",
    }.get(subject.kind)


def _verdict(subject: SubjectInfo, original: str, table: Mapping[tuple[str, str], Result]) -> str:
    shown = _share(table, "forget_probability", subject.name, original)
    inside = {name: _share(table, check, subject.name, original) for name, check in (("lens", "lens_leak"), ("probe", "probe_leak"))}
    hidden = table["suppression_index", subject.name].estimate
    found = {name: value for name, value in inside.items() if value is not None and value > TRACE}
    if shown is None:
        text = "Without a model that never learnt the facts, nothing here can be called forgotten: compare with the original only."
    elif shown > TRACE:
        text = f"Still answers: {shown:.0%} of the original's grip on the forget answers is left in plain behaviour."
    elif hidden is not None and hidden >= HIDDEN:
        text = f"Hidden, not removed: it does not answer, but its bare weights give back {hidden:.0%} of what was hidden."
    elif found:
        worst = max(found, key=lambda name: found[name])
        text = f"Silent, but not empty: it no longer answers, yet the {worst} still finds {found[worst]:.0%} of what the original held."
    else:
        text = "No trace found by these checks: behaviour, lens and probe are near the never-taught model. That is absence of evidence, not proof."
    return " ".join([text, *_damage(subject.name, original, table)])


def _damage(name: str, original: str, table: Mapping[tuple[str, str], Result]) -> list[str]:
    said = []
    kept = _quotient(table, "retain_probability", name, original)
    varied = _quotient(table, "degeneracy", name, original)
    if kept is not None and kept < KEPT:
        said.append(f"It also lost {1 - kept:.0%} of what it should have kept.")
    if varied is not None and varied < DEGENERATE:
        said.append("Its answers repeat themselves, so its low scores say little.")
    return said


def _share(table: Mapping[tuple[str, str], Result], check: str, name: str, original: str) -> float | None:
    """Return where a subject stands between the control (0) and the original (1); None where the two ends are not apart."""
    mine, top = table[check, name], table[check, original]
    if mine.estimate is None or mine.control is None or top.estimate is None or top.estimate - mine.control < 0.05:
        return None
    return max(0.0, (mine.estimate - mine.control) / (top.estimate - mine.control))


def _quotient(table: Mapping[tuple[str, str], Result], check: str, name: str, original: str) -> float | None:
    mine, top = table[check, name].estimate, table[check, original].estimate
    return None if mine is None or not top else mine / top


