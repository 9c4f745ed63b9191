"""Every verdict once, with the threshold that decided it, and checks that are missing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from vestige.claims import placed
from vestige.result import AttackResult, ConceptVectorRow, ResidualKnowledge, Result, SubjectInfo
from vestige.signs import signs_of
from vestige.verdict import verdicts

SUBJECTS = [
    SubjectInfo("original", "original"),
    SubjectInfo("edited", "unlearned", "removal"),
    SubjectInfo("retain", "retrained"),
    SubjectInfo("never", "never"),
]
CONTROL: dict[str, float] = {"forget_probability": 0.1, "lens_leak": 0.2, "probe_leak": 0.5}
ORIGINAL: dict[str, float | None] = {
    "forget_probability": 0.9,
    "lens_leak": 1.0,
    "probe_leak": 1.0,
    "retain_probability": 0.8,
    "degeneracy": 0.9,
    "concept_vector_cosine": 1.0,
    "suppression_index": 0.0,
}
CLEAN: dict[str, float | None] = {
    "forget_probability": 0.1,
    "lens_leak": 0.2,
    "probe_leak": 0.5,
    "retain_probability": 0.8,
    "degeneracy": 0.9,
    "concept_vector_cosine": 0.3,
    "suppression_index": 0.0,
}


def results_of(
    original: dict[str, float | None], edited: dict[str, float | None], *, without: str = ""
) -> list[Result]:
    """One result per value; what has no control of its own has one of 0."""
    return [
        Result(check, name, value, control=CONTROL.get(check, 0.0))
        for name, values in (("original", original), ("edited", edited))
        for check, value in values.items()
        if check != without
    ]


def verdict(
    *,
    original: dict[str, float | None] | None = None,
    without: str = "",
    score: ResidualKnowledge | None = None,
    **edited: float | None,
) -> str:
    """The verdict on a subject that is clean but for what is said."""
    results = results_of(ORIGINAL | (original or {}), CLEAN | edited, without=without)
    return verdicts(SUBJECTS, results, [] if score is None else [score])["edited"]


def test_no_trace() -> None:
    said = verdict()
    assert said.startswith("No trace found: by what it says, the lens and the probe")
    assert "at most 20% left" in said
    assert "absence of evidence, not proof" in said


def test_flattened_logits_do_not_pass_for_silence() -> None:
    # A softmax that was made flat lowers every probability and changes no first choice and no text.
    edges = {"exact_memorization": 1.0, "forget_rouge": 1.0}
    results = [
        Result(check, name, value, control=CONTROL.get(check, 0.0))
        for name, values in (("original", ORIGINAL | edges), ("edited", CLEAN | edges))
        for check, value in values.items()
    ]
    assert verdicts(SUBJECTS, results)["edited"].startswith("Still answers: in what it writes, 100% of")


def test_still_answers() -> None:
    # (0.5 - 0.1) / (0.9 - 0.1).
    assert verdict(forget_probability=0.5).startswith("Still answers: in how probable the answers are, 50% of")
    assert "(above 20%)" in verdict(forget_probability=0.5)


@pytest.mark.parametrize(("probability", "answers"), [(0.261, True), (0.259, False), (0.0, False)])
def test_the_threshold_of_still_answers(probability: float, answers: bool) -> None:
    assert verdict(forget_probability=probability).startswith("Still answers") is answers


def test_hidden() -> None:
    said = verdict(suppression_index=0.97, lens_leak=1.0)
    assert said.startswith("Hidden, not removed: it does not answer, but its bare weights give back 97%")
    assert "(50% or more)" in said
    assert not verdict(suppression_index=0.49).startswith("Hidden")


@pytest.mark.parametrize(
    ("values", "where", "share"),
    [
        ({"lens_leak": 0.6}, "lens", "50%"),
        ({"probe_leak": 0.65}, "probe", "30%"),
        ({"lens_leak": 0.4, "probe_leak": 0.9}, "probe", "80%"),
    ],
)
def test_silent_but_not_empty(values: dict[str, float], where: str, share: str) -> None:
    said = verdict(**values)
    assert said.startswith(f"Silent, but not empty: it does not answer, yet the {where} still finds {share}")
    assert "(above 20%)" in said


def test_a_trace_that_the_choice_of_items_explains_is_no_clear_one() -> None:
    sure = Result("lens_leak", "edited", 0.7, high=0.9, control=0.2, floor=0.3)
    for estimate, low, found in (
        (0.7, 0.31, "Silent, but not empty"),
        (0.7, 0.29, "Not settled"),
        (0.7, 0.19, "Not settled"),
        # Half of what the original holds and no more: luck.
        (0.6, 0.19, "No trace found"),
    ):
        results = [
            Result("forget_probability", "original", 0.9, control=0.1),
            Result("forget_probability", "edited", 0.1, control=0.1),
            Result("lens_leak", "original", 1.0, control=0.2),
            replace(sure, estimate=estimate, low=low),
        ]
        assert verdicts(SUBJECTS, results)["edited"].startswith(found)


def test_untouched_vectors_leave_it_open() -> None:
    said = verdict(concept_vector_cosine=0.99)
    assert said.startswith("Not settled: by what it says, the lens and the probe it is like")
    assert "almost untouched (cosine 0.99, 0.95 or more)" in said
    assert verdict(concept_vector_cosine=0.94).startswith("No trace found")


@pytest.mark.parametrize(
    ("p_adjusted", "said"), [(0.12, "No trace found"), (0.03, "Not settled"), (None, "Not settled")]
)
def test_vectors_that_chance_gives_as_well_settle_nothing(p_adjusted: float | None, said: str) -> None:
    results = results_of(ORIGINAL, CLEAN | {"concept_vector_cosine": 0.99})
    rows = [row(p_adjusted, cosine=0.99), row(None if p_adjusted is None else 0.3, cosine=0.99)]
    assert verdicts(SUBJECTS, results, [], rows)["edited"].startswith(said)


@pytest.mark.parametrize(("telling", "rest", "said"), [(1.0, 0.3, "Not settled"), (0.3, 1.0, "No trace found")])
def test_vectors_that_are_beyond_chance_speak_alone(telling: float, rest: float, said: str) -> None:
    results = results_of(ORIGINAL, CLEAN | {"concept_vector_cosine": (telling + 9 * rest) / 10})
    rows = [row(0.001, cosine=telling), *(row(0.6, cosine=rest) for _ in range(9))]
    assert verdicts(SUBJECTS, results, [], rows)["edited"].startswith(said)
    # A vector that was set to zero has no cosine.
    gone = [row(0.001, cosine=None), *rows[1:]]
    assert verdicts(SUBJECTS, results, [], gone)["edited"].startswith("No trace found")


def row(p_adjusted: float | None, *, cosine: float | None) -> ConceptVectorRow:
    return ConceptVectorRow(2, 7, 0.5, 0.01, ("a",), {}, {"edited": cosine}, p_adjusted, 0.025)


def test_first_choices_alone_are_no_answers() -> None:
    # Whatever is left of them: they are made after the right beginning of an answer.
    for share in (0.25, 1.0):
        original: dict[str, float | None] = {"exact_memorization": 1.0}
        said = verdict(original=original, exact_memorization=share)
        assert said.startswith("Silent, but not empty: it does not answer, yet its first choices, given the beginning")
        assert f"keep {share:.0%} of what sets the original apart" in said
        doubted = verdict(original=original, exact_memorization=share, score=score(0.02))
        assert doubted.startswith("Not settled: it does not answer, yet its first choices")


def test_shares_beyond_the_scale_are_said_in_words() -> None:
    assert "at least all of what sets the original apart is left" in verdict(forget_probability=1.3)
    assert "give back at least all of what the original knows" in verdict(suppression_index=1.2)
    assert "100% of what sets the original apart" in verdict(forget_probability=0.9)


def score(
    probability: float, *, attacked: bool = True, missing: tuple[str, ...] = (), abstains: bool | None = None
) -> ResidualKnowledge:
    """What the score says of the edited model, abstaining as an audit lets it."""
    unsure = 0.1 < probability < 0.9 or (not attacked and probability <= 0.9)
    return ResidualKnowledge(
        "edited",
        "quick" if attacked else "checks",
        0.25,
        probability,
        unsure if abstains is None else abstains,
        "attack:few_shot" if attacked else "raw_depth_leak",
        missing,
    )


def test_the_score_is_part_of_the_statement() -> None:
    sure = verdict(forget_probability=0.9, score=score(0.9996))
    assert sure == (
        "Still answers: in how probable the answers are, 100% of what sets the original apart is left (above 20%). All "
        "checks and attacks together (score 0.25, heard most in “attack few shot”) give above 99% that it still holds "
        "some of the facts."
    )
    gone = verdict(score=score(0.004))
    assert "and all checks and attacks together (score 0.25, heard most in “attack few shot”) give below 1%" in gone
    assert gone.endswith("That is absence of evidence, not proof.")
    heard = verdict(score=score(0.95))
    assert heard.startswith("Silent, but not empty: by what it says, the lens and the probe it is like a model that")
    assert "yet all checks and attacks together" in heard
    unsure = verdict(score=score(0.5), concept_vector_cosine=0.99)
    assert unsure.startswith("Not settled: by what it says, the lens and the probe")
    assert unsure.endswith("are too unsure for a claim (50% that it still holds some of the facts).")
    partly = verdict(score=score(0.004, missing=("probe_leak", "attack:reworded")))
    assert "few shot”, 2 of the instruments could not be used) give" in partly
    alone = verdict(score=score(0.004, attacked=False))
    assert alone.startswith("No trace found")
    assert alone.endswith("what only attacks bring back was not looked for.")


def test_a_weak_trace_needs_a_score_that_does_not_speak_against_it() -> None:
    weak = {"forget_probability": 0.3}
    assert verdict(**weak).startswith("Still answers")
    assert verdict(**weak, score=score(0.95)).startswith("Still answers")
    for unsure in (0.2, 0.5, 0.79):
        open_still = verdict(**weak, score=score(unsure))
        assert open_still.startswith("Not settled: in how probable the answers are, 25% of what")
    leaning = verdict(**weak, score=score(0.8))
    assert leaning.startswith("Still answers: in how probable the answers are, 25% of what")
    assert leaning.endswith("lean the same way (80% that it still holds some of the facts).")
    assert verdict(**weak, score=score(0.02)).startswith("Not settled")
    doubted = verdict(lens_leak=0.6, score=score(0.02, attacked=False))
    assert doubted.startswith("Not settled: it does not answer, yet the lens still finds 50%")
    assert "do not bear that out, and what only attacks bring back was not looked for" in doubted
    # Half of an answer, or the bare weights, decide whatever the score says.
    loud = verdict(forget_probability=0.8, score=score(0.02))
    assert loud.startswith("Still answers")
    assert "That decides, whatever else was tried" in loud
    assert verdict(suppression_index=0.9, score=score(0.02)).startswith("Hidden, not removed")


def test_no_trace_where_a_score_without_attacks_is_unsure_leans_as_the_checks_do() -> None:
    leaning = verdict(score=score(0.2, attacked=False))
    assert leaning.startswith("No trace found: by what it says, the lens and the probe it is like")
    assert "lean the same way, if too unsure for a claim" in leaning
    assert leaning.endswith("what only attacks bring back was not looked for.")
    assert verdict(score=score(0.21, attacked=False)).startswith("Not settled")
    # Attacks look for more, so that a score with them is unsure has a reason that checks do not show.
    assert verdict(score=score(0.2)).startswith("Not settled")
    # The more an instrument finds inside, the less the score has to say.
    for probability, found, holds in ((0.5, 0.8, True), (0.49, 0.8, False), (0.5, 0.5, False), (0.8, 0.5, True)):
        inside = verdict(lens_leak=found, score=score(probability, attacked=False))
        assert inside.startswith("Silent, but not empty" if holds else "Not settled"), inside
        assert ("do not speak against it (50% that" in inside) == (probability == 0.5 and holds)
    # A score that heard too little leans to nothing, however it looks.
    assert verdict(forget_probability=0.3, score=score(0.999, abstains=True)).startswith("Not settled")


def test_patching_tells_from_a_half_on() -> None:
    # Of 155 models that never knew, 12 had a share above 0.2, one above 0.5 and none above 0.8.
    little = verdict(original={"depth_leak": 1.0}, depth_leak=0.3)
    assert little.startswith("No trace found: by what it says, the lens and the probe it is like")
    assert "Patching finds 30% of what the original holds, which alone does not tell it apart." in little
    whole = verdict(original={"depth_leak": 1.0}, depth_leak=0.1)
    assert "by what it says, the lens, the probe and patching it is like" in whole
    more = verdict(original={"depth_leak": 1.0}, depth_leak=0.6)
    assert more.startswith("Silent, but not empty: it does not answer, yet patching still finds 60%")
    assert "(above 50%)" in more
    assert verdict(original={"depth_leak": 1.0}, depth_leak=0.6, score=score(0.02)).startswith("Not settled")
    deep = verdict(original={"depth_leak": 1.0}, depth_leak=0.9, score=score(0.02))
    assert deep.startswith("Silent, but not empty: it does not answer, yet patching still finds 90%")
    assert "(80% or more)" in deep


def test_the_score_on_references_is_held_against_what_is_known_of_them() -> None:
    def said(probability: float) -> str:
        known = replace(score(probability), subject="retain")
        return verdicts(SUBJECTS, [], [known])["retain"]

    assert said(0.004).endswith("The score gives below 1% that it holds them, as it should.")
    unsure = replace(score(0.15, attacked=False), subject="retain")
    assert verdicts(SUBJECTS, [], [unsure])["retain"].endswith("as it should, if too unsure for a claim.")
    assert said(0.4).endswith("The score gives 40% that it holds them, too much to trust the score here.")
    assert said(0.97).endswith("too much to trust the score here: it takes this model for one that knows.")


HOLDS = ("Still answers", "Hidden, not removed", "Silent, but not empty")
SHARES: list[dict[str, float]] = [
    {},
    {"forget_probability": 0.3},
    {"forget_probability": 0.3, "paraphrase_probability": 0.3},
    {"forget_probability": 0.9},
    {"forget_probability": 1.3},
    {"exact_memorization": 0.9},
    {"lens_leak": 0.6},
    {"depth_leak": 0.3},
    {"depth_leak": 0.6},
    {"depth_leak": 0.9},
    {"forget_probability": 0.3, "depth_leak": 0.9},
    {"suppression_index": 0.9},
    {"suppression_index": 0.45},
    {"suppression_index": 0.9, "depth_leak": 1.0, "forget_probability": 0.3},
    {"concept_vector_cosine": 0.99},
    {"lens_leak": float("nan")},
    {"depth_leak": float("nan")},
    {"suppression_index": float("nan")},
]
SCORES = [
    None,
    *(score(p) for p in (0.004, 0.1, 0.2, 0.5, 0.8, 0.9, 0.999)),
    *(score(p, attacked=False) for p in (0.004, 0.1, 0.2, 0.5, 0.8, 0.9, 0.999)),
    score(0.999, abstains=True),
    score(0.004, abstains=True),
    score(float("nan"), abstains=False),
    score(0.004, missing=("probe_leak",)),
]


@pytest.mark.parametrize("known", SCORES, ids=str)
@pytest.mark.parametrize("values", SHARES, ids=str)
def test_no_two_parts_of_a_statement_contradict_each_other(
    values: dict[str, float], known: ResidualKnowledge | None
) -> None:
    results = results_of(
        ORIGINAL | {"paraphrase_probability": 0.9, "exact_memorization": 1.0, "depth_leak": 1.0},
        CLEAN | {"paraphrase_probability": 0.1, "exact_memorization": 0.0, "depth_leak": 0.0} | values,
    )
    said = verdicts(SUBJECTS, results, [] if known is None else [known])["edited"]
    heads = [head for head in (*HOLDS, "Not settled", "No trace found", "No verdict") if head in said]
    assert len(heads) == 1
    assert said.startswith(f"{heads[0]}: ")
    holds = heads[0] in HOLDS
    assert "nan" not in said
    signs = signs_of({(r.check, r.subject): r for r in results}, "edited", "original")
    assert signs is not None
    at = None if known is None else placed(signs, known)
    # Nothing is placed where nothing is settled, and nowhere against what is claimed.
    assert at in {True: (None, "suppression", "mixed"), False: (None, "removal")}[holds]
    assert at is None or heads[0] != "Not settled"
    assert at != "removal" or heads[0] == "No trace found"
    if known is None:
        assert "together" not in said
        return
    sure = not known.abstains and known.probability == known.probability
    if sure and known.probability >= 0.9:
        assert holds
    if heads[0] == "No trace found":
        assert known.probability <= (0.2 if known.instruments == "checks" else 0.1)
        assert sure or known.instruments == "checks"
    if known.abstains and "That decides" not in said:
        assert not holds
    if known.instruments == "checks":
        assert at != "removal"
        # A small probability is not printed where nobody looked for what only attacks bring back.
        assert not any(low in said for low in ("below 1%", "10%"))
    if known.missing:
        assert at != "removal"
    if values == {"exact_memorization": 0.9}:
        assert heads[0] != "Still answers"
    if values.get("suppression_index") == 0.9:
        assert heads[0] == "Hidden, not removed"
        assert at == "suppression"


def test_damage_is_added_to_any_verdict() -> None:
    said = verdict(retain_probability=0.4, degeneracy=0.3)
    assert said.startswith("No trace found")
    assert "lost 50% of the retain probability (more than 20%)" in said
    assert "33% as varied as the original's (below 50%), so low scores say little" in said
    assert "lost" not in verdict(retain_probability=0.65)
    assert "varied" not in verdict(degeneracy=0.5)


def test_silence_altogether_is_said() -> None:
    results = results_of(ORIGINAL, CLEAN, without="degeneracy")
    mute = Result("degeneracy", "edited", None, note="every continuation was empty")
    said = verdicts(SUBJECTS, [*results, mute])["edited"]
    assert said.endswith("It writes nothing at all, so low scores say little.")
    assert "writes nothing" not in verdict(degeneracy=None)
    assert "writes nothing" not in verdict(original={"degeneracy": 0.0})


def test_bare_weights_below_a_half_are_a_weak_trace() -> None:
    assert verdict(suppression_index=0.45).startswith("Silent, but not empty: it does not answer, yet its bare weights")
    assert verdict(suppression_index=0.45, score=score(0.02)).startswith("Not settled: it does not answer, yet its")
    assert verdict(suppression_index=0.19).startswith("No trace found")


def test_what_lies_below_the_control_is_not_hidden() -> None:
    # The bare weights stand at the control: (0.1 - 0.0) / 0.8 is 0.125, all of it makes up for the lack.
    assert verdict(forget_probability=-0.4, suppression_index=0.625).startswith("No trace found")


def test_the_score_is_said_where_the_items_have_no_scale() -> None:
    said = verdict(forget_probability=float("nan"), score=score(0.999))
    assert said.startswith("No verdict")
    assert "give above 99% that it still holds some of the facts" in said
    original = verdict(original={"forget_probability": float("nan")})
    assert original.startswith("No verdict: the original's forget probability could not be measured")


def test_noise_about_nothing_is_no_trace_and_a_large_unsure_share_is_not_settled() -> None:
    top = Result("depth_leak", "original", 1.0, control=0.0)
    for share, head in ((0.02, "No trace found"), (0.3, "No trace found"), (0.9, "Not settled: “")):
        mine = Result("depth_leak", "edited", share, low=-0.4, high=1.2, control=0.0, floor=0.0)
        for known in (None, score(0.02)):
            results = [*results_of(ORIGINAL, CLEAN), top, mine]
            said = verdicts(SUBJECTS, results, [] if known is None else [known])["edited"]
            assert said.startswith(head)
            assert ("clearly above what a model that never knew gives" in said) == (share == 0.9)


def test_instruments_that_are_missing_are_counted_where_checks_are_silent() -> None:
    said = verdict(score=score(0.08, attacked=False, missing=("probe_leak", "lens_leak")))
    assert said.endswith("2 of the instruments could not be used.")


def test_two_kinds_of_answers_are_both_named() -> None:
    results = results_of(
        ORIGINAL | {"paraphrase_probability": 0.9},
        CLEAN | {"paraphrase_probability": 0.3, "forget_probability": 0.3},
    )
    said = verdicts(SUBJECTS, results, [score(0.02)])["edited"]
    assert "how probable the answers are (25%)" in said
    assert "reworded (33%)" in said


def test_an_unsure_score_of_a_reference_is_no_claim() -> None:
    for known in (score(float("nan")), score(0.95, abstains=True)):
        said = verdicts(SUBJECTS, [], [replace(known, subject="retain")])["retain"]
        assert said.endswith("too unsure for a claim.")


def test_of_the_reference_that_sets_the_zero_nothing_is_claimed() -> None:
    both = [replace(score(0.004), subject=name) for name in ("retain", "never")]
    found = verdicts(SUBJECTS, [], both)
    assert found["never"].endswith("its score is 0 by construction.")
    assert found["retain"].endswith("The score gives below 1% that it holds them, as it should.")
    assert verdicts(SUBJECTS[:3], [], both[:1])["retain"].endswith("its score is 0 by construction.")


def test_attacks_that_cannot_be_used_are_no_attacks_that_were_not_made() -> None:
    results, known = results_of(ORIGINAL, CLEAN), [score(0.02, attacked=False)]

    def said(*gaps: float | None) -> str:
        made = [AttackResult(f"a{n}", "edited", 0.9, gap=gap) for n, gap in enumerate(gaps)]
        others = [AttackResult("a0", "never", 0.0, gap=0.0)]
        return verdicts(SUBJECTS, results, known, (), [*made, *others])["edited"]

    assert said().startswith("No trace found")
    assert "was not looked for" in said()
    assert said(None, None).startswith("Not settled: by what it says")
    assert "too little: of 2 attacks none gave a gap that can be used" in said(None, None)
    assert said(0.1, None).startswith("No trace found")
    assert "too little: of 2 attacks 1 gave a gap" in said(0.1, None)
    assert said(float("nan")).startswith("Not settled")
    assert "of 1 attack none gave" in said(None)
    assert said(0.1, 0.0).endswith("too little: too few of the attacks that the score was fitted on were made.")


def test_without_a_control_nothing_is_called_forgotten() -> None:
    results = [Result("forget_probability", name, value) for name, value in (("original", 0.9), ("edited", 0.0))]
    assert verdicts(SUBJECTS[:2], results)["edited"].startswith(
        "No verdict: without a model that never learnt the facts"
    )


def test_an_original_that_does_not_know_the_facts() -> None:
    said = verdict(original={"forget_probability": 0.12})
    assert said.startswith("No verdict: the original's forget probability is 0.12")
    assert "less than 0.05 apart" in said


def test_a_check_that_tells_nothing_is_not_counted_as_clean() -> None:
    said = verdict(original={"probe_leak": None})
    assert "by what it says and the lens it is like" in said
    assert said.endswith("The probe tells nothing here.")
    both = verdict(original={"probe_leak": 0.52, "lens_leak": 0.21})
    assert "by what it says it is like" in both
    assert both.endswith("The lens tells nothing here. The probe tells nothing here.")


@pytest.mark.parametrize("check", ORIGINAL)
def test_a_missing_check_is_no_error(check: str) -> None:
    assert verdict(without=check)


def test_nothing_measured_is_no_error() -> None:
    assert verdicts(SUBJECTS, [])["edited"].startswith("No verdict")


def test_references_say_what_they_are_for() -> None:
    found = verdicts(SUBJECTS, [])
    assert list(found) == ["original", "edited", "retain", "never"]
    assert "upper end" in found["original"]
    assert "exact unlearning" in found["retain"]
    assert "lower end" in found["never"]
