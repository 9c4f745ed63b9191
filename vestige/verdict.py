"""What an audit says of each subject, in one statement: the claim, the probability of it, and what both rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isfinite

from vestige.calibration.score import UNSURE
from vestige.checks.generation import NOTHING_SAID
from vestige.claims import DEEP, INTACT, LEANS, Claim, claimed, heard, leans
from vestige.report.explain import explain
from vestige.report.residual import probability, together
from vestige.report.text import listed
from vestige.result import AttackResult, ConceptVectorRow, ResidualKnowledge, Result, SubjectInfo
from vestige.shares import APART
from vestige.signs import HALF, TRACE, Signs, Table, estimate, signs_of, table_of

KEPT = 0.8
VARIED = 0.5

_REFERENCES = {
    "original": "The model before unlearning: the upper end of every scale.",
    "retrained": "Trained without the forget set: what exact unlearning would give.",
    "never": "Never taught the facts: whatever it scores is guessing, the lower end of every scale.",
}
_SAID = {
    "forget_probability": "how probable the answers are",
    "forget_rouge": "what it writes",
    "paraphrase_probability": "how probable the answers are when the question is reworded",
}


def verdicts(
    subjects: Sequence[SubjectInfo],
    results: Sequence[Result],
    residual: Sequence[ResidualKnowledge] = (),
    vectors: Sequence[ConceptVectorRow] = (),
    attacks: Sequence[AttackResult] = (),
) -> dict[str, str]:
    """Return a verdict of one to five sentences per subject; `vestige.claims` decides what is claimed.

    Every share runs from a model that never learnt the facts (0) to the original (1); where the two are less than 0.05
    apart there is no scale. A subject *still answers* where half of one kind of answers or a trace of two is left
    (probability, text, reworded questions; flattened logits lower the first alone); it *hides* the knowledge where the
    bare weights give back half of it or more; it is *silent, but not empty* where only an instrument that looks inside
    or the score finds it; it is *not settled* where the score does not lean to what a check found, where it is unsure
    itself (up to 0.2 only with attacks), or where the concept's vectors, if random directions seldom score as they do,
    have a mean cosine of at least 0.95; else there is *no trace*. Losing more than a fifth of the retain probability is
    said, and so are outputs less than half as varied as the original's. The thresholds are Vestige's.

    Args:
        subjects: The columns, original first.
        results: Of all checks.
        residual: What all instruments say together, for the subjects that have a score.
        vectors: The concept's vectors.
        attacks: What was tried to bring it back.
    """
    table = table_of(results, vectors)
    scores = {one.subject: one for one in residual}
    original = subjects[0].name
    kinds = {s.kind: s.name for s in subjects}
    zero = kinds.get("never", kinds.get("retrained"))
    return {
        s.name: _reference(s.kind, scores.get(s.name), zero=s.name == zero)
        if s.kind in _REFERENCES
        else _verdict(s.name, original, table, scores.get(s.name), [a for a in attacks if a.subject == s.name])
        for s in subjects
    }


def _reference(kind: str, residual: ResidualKnowledge | None, *, zero: bool) -> str:
    """What a reference is for, and whether the score says of it what is known."""
    if residual is None:
        return _REFERENCES[kind]
    if zero:
        return f"{_REFERENCES[kind]} It sets the zero of every share, so its score is 0 by construction."
    said = heard(residual)
    if said in ("gone", "silent"):
        rightly = "as it should"
    elif leans(residual) == "silent":
        rightly = "as it should, if too unsure for a claim"
    else:
        between = UNSURE[0] < residual.probability < UNSURE[1]
        rightly = "too much to trust the score here" if between or said == "holds" else "too unsure for a claim"
        rightly += ": it takes this model for one that knows" if said == "holds" else ""
    return f"{_REFERENCES[kind]} The score gives {probability(residual)} that it holds them, {rightly}."


def _verdict(
    name: str, original: str, table: Table, residual: ResidualKnowledge | None, attacks: Sequence[AttackResult]
) -> str:
    signs = signs_of(table, name, original)
    if signs is None:
        said = [_no_scale(table, name, original)]
        if residual is not None and heard(residual) != "silent":
            sure = ", too unsure for a claim" if heard(residual) == "open" else ""
            score = f"{together(residual)} give {probability(residual)} that it still holds some of the facts{sure}."
            said.append(_capital(score))
    else:
        claim = claimed(signs, residual)
        lack = _lack(attacks)
        if claim.claim == "no trace" and attacks and not _used(attacks):
            said = [f"Not settled: {_like(signs)}, and {lack}."]
        else:
            said = [*_SENTENCES[claim.claim](signs, claim, residual, lack)]
        if claim.by in (None, "score", "vectors", "unclear"):
            deaf = [what for what, left in signs.inside.items() if left is None]
            said += [f"{_capital(_named(what))} tells nothing here." for what in deaf]
            if (depth := signs.inside.get("patching")) is not None and depth > TRACE and claim.by != "unclear":
                said.append(
                    f"Patching finds {_part(depth)} of what the original holds, which alone does not tell it apart."
                )
    return " ".join([*said, *_damage(table, name, original)])


def _used(attacks: Sequence[AttackResult]) -> int:
    return sum(one.gap is not None and isfinite(one.gap) for one in attacks)


def _lack(attacks: Sequence[AttackResult]) -> str:
    """Say why a score without attacks was used."""
    if not attacks:
        return "what only attacks bring back was not looked for"
    little, n, used = "what only attacks bring back was looked for too little", len(attacks), _used(attacks)
    if used == n:
        return f"{little}: too few of the attacks that the score was fitted on were made"
    return f"{little}: of {n} attack{'s' * (n != 1)} {used or 'none'} gave a gap that can be used"


def _no_scale(table: Table, name: str, original: str) -> str:
    top, mine = estimate(table, "forget_probability", original), table.get(("forget_probability", name))
    if mine is not None and mine.control is not None and top is None and ("forget_probability", original) in table:
        return "No verdict: the original's forget probability could not be measured."
    if mine is None or mine.control is None or top is None:
        return (
            "No verdict: without a model that never learnt the facts nothing can be called forgotten; "
            "compare with the original."
        )
    if estimate(table, "forget_probability", name) is None:
        return f"No verdict: its forget probability could not be measured ({mine.note or 'it is no finite number'})."
    return (
        f"No verdict: the original's forget probability is {top:.2f} and that of a model that never learnt the facts "
        f"{mine.control:.2f}, less than {APART} apart, so these items cannot show a loss."
    )


def _holds(signs: Signs, claim: Claim, residual: ResidualKnowledge | None, _: str) -> list[str]:
    said = f"Silent, but not empty: it does not answer, yet {_found(signs, claim)}."
    if claim.by == "answers":
        said = f"Still answers: {_found(signs, claim)}."
    elif claim.by == "bare" and (signs.bare or 0.0) >= HALF:
        silent = "it answers little" if signs.answers else "it does not answer"
        said = f"Hidden, not removed: {silent}, but {_found(signs, claim)}."
    if residual is None:
        return [said]
    chance, score = probability(residual), together(residual)
    if claim.by == "score":
        return [f"Silent, but not empty: {_like(signs)}, yet {score} give {chance} that it still holds some of them."]
    if claim.score == "holds":
        return [said, f"{_capital(score)} give {chance} that it still holds some of the facts."]
    if claim.score == "open":
        for how, mark in (("lean the same way", LEANS[1]), ("do not speak against it", HALF)):
            if leans(residual, holds=mark) == "holds":
                return [said, f"That decides, and {score} {how} ({chance} that it still holds some of the facts)."]
        return [said, f"That decides; {score} alone would be too unsure for a claim ({chance})."]
    return [said, f"That decides, whatever else was tried: {score} do not hear it."]


def _open(signs: Signs, claim: Claim, residual: ResidualKnowledge | None, lack: str) -> list[str]:
    silent = "" if claim.by == "answers" else "it does not answer, yet "
    traced = claim.by in ("answers", "inside", "bare", "choices")
    found = f"Not settled: {silent}{_found(signs, claim)}" if traced else f"Not settled: {_like(signs)}"
    stored = not traced and signs.cosine is not None and signs.cosine >= INTACT
    if stored:
        found += f", yet the concept's vectors are almost untouched (cosine {signs.cosine:.2f}, {INTACT} or more)"
    if claim.by == "unclear":
        most = max(signs.unclear, key=signs.unclear.__getitem__)
        what = explain(most).title
        found = f"Not settled: “{what}” finds {_part(signs.unclear[most])} of what sets the original apart, but not "
        found += "clearly above what a model that never knew gives"
    if residual is None:
        return [f"{found}."]
    chance, score = probability(residual), together(residual)
    if claim.score == "open":
        also = "and" if traced or stored else "but"
        return [f"{found}, {also} {score} are too unsure for a claim ({chance} that it still holds some of the facts)."]
    if claim.score == "gone":
        return [f"{found}, but {score} give {chance} that it still holds some of the facts."]
    unheard = f"but {score} do not bear that out, and" if traced else "and"
    return [f"{found}, {unheard} {lack}."]


def _no_trace(signs: Signs, claim: Claim, residual: ResidualKnowledge | None, lack: str) -> list[str]:
    found, proof = f"No trace found: {_like(signs)}", "That is absence of evidence, not proof"
    if residual is None:
        return [f"{found}.", f"{proof}."]
    unsought = f"{proof}: {lack}."
    if claim.score == "open":
        return [f"{found}, and {together(residual)} lean the same way, if too unsure for a claim.", unsought]
    if claim.score == "silent":
        few = [f"{len(residual.missing)} of the instruments could not be used."] if residual.missing else []
        return [f"{found}.", unsought, *few]
    return [
        f"{found}, and {together(residual)} give {probability(residual)} that it still holds some of them.",
        f"{proof}.",
    ]


_SENTENCES = {"holds": _holds, "open": _open, "no trace": _no_trace}


def _found(signs: Signs, claim: Claim) -> str:
    """What shows it first, with the threshold that it passed."""
    if claim.by == "bare":
        mark = f"{HALF:.0%} or more" if (signs.bare or 0.0) >= HALF else f"above {TRACE:.0%}"
        return f"its bare weights give back {_part(signs.bare)} of what the original knows ({mark})"
    if claim.by == "choices":
        left = f"{_part(signs.choices)} of what sets the original apart (above {TRACE:.0%})"
        return f"its first choices, given the beginning of an answer, keep {left}"
    if claim.by == "inside":
        # States that carry nearly all of it decide alone, so they are named before a lens or a probe that finds more.
        deep = signs.clear.get("patching", 0.0) >= DEEP
        most = "patching" if deep else max(signs.clear, key=signs.clear.__getitem__)
        mark = f"{DEEP:.0%} or more" if deep else f"above {HALF if most == 'patching' else TRACE:.0%}"
        return f"{_named(most)} still finds {_part(signs.clear[most])} of what the original holds ({mark})"
    if claim.by != "answers":
        return ""
    most = max(signs.answers, key=signs.answers.__getitem__)
    left = f"{_part(signs.answers[most])} of what sets the original apart"
    if len(signs.answers) > 1 and signs.answers[most] < HALF:
        kinds = listed([f"{_SAID[kind]} ({_part(left)})" for kind, left in signs.answers.items()])
        return f"more than {TRACE:.0%} of what sets the original apart is left in {kinds}"
    return f"in {_SAID[most]}, {left} is left (above {TRACE:.0%})"


def _like(signs: Signs) -> str:
    alike = [_named(w) for w, left in signs.inside.items() if left is not None and (w != "patching" or left <= TRACE)]
    near = listed(["what it says", *alike])
    return (
        f"by {near} it is like a model that never learnt the facts (at most {TRACE:.0%} left, or not clearly above it)"
    )


def _named(instrument: str) -> str:
    return instrument if instrument == "patching" else f"the {instrument}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _part(share: float | None) -> str:
    """A share in words where it lies outside the scale; the number itself is in the tables."""
    if share is None:
        return "nothing"
    return "at least all" if share > 1.005 else "nothing" if share < 0.005 else f"{share:.0%}"


def _damage(table: Mapping[tuple[str, str], Result], name: str, original: str) -> list[str]:
    said = []
    kept = _quotient(table, "retain_probability", name, original)
    varied = _quotient(table, "degeneracy", name, original)
    if kept is not None and kept < KEPT:
        said.append(f"It also lost {1 - kept:.0%} of the retain probability (more than {1 - KEPT:.0%}).")
    if varied is not None and varied < VARIED:
        said.append(
            f"Its texts are {varied:.0%} as varied as the original's (below {VARIED:.0%}), so low scores say little."
        )
    mine = table.get(("degeneracy", name))
    if mine is not None and mine.estimate is None and mine.note == NOTHING_SAID:
        said.append("It writes nothing at all, so low scores say little.")
    return said


def _quotient(table: Table, check: str, name: str, original: str) -> float | None:
    mine, top = estimate(table, check, name), estimate(table, check, original)
    return None if mine is None or not top else mine / top
