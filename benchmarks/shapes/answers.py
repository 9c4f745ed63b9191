"""Shapes of what is read off answers: forget quality, truth ratio, utility, and membership."""

from __future__ import annotations

from benchmarks.shapes.claims import APART, DECADE, KEPT, POINTS, Shape, above, below, both, near, rising, some
from benchmarks.shapes.runs import REMOVAL
from benchmarks.shapes.terms import Term, composite, forgotten, log_p, most, priv_leak, uds, utility, value, working

TOFU = "TOFU, arXiv:2401.06121"
MUSE = "MUSE, open-unlearning page"
UDS = "UDS, arXiv:2605.24614"
GA, GD = "ga to the end", "graddiff to the end"


def _ratio(subject: str) -> Term:
    return value(subject, "truth_ratio", label=f"truth ratio {subject}")


ANSWER_SHAPES: tuple[Shape, ...] = (
    Shape(
        "15.1",
        TOFU,
        "forget quality: the original is a decade below the retrained model",
        rising(log_p("original"), log_p("retain"), by=DECADE),
    ),
    Shape(
        "15.1",
        TOFU,
        "ascent to the end: forget quality collapses, a decade below the retrained model's",
        both(forgotten(GA), rising(log_p(GA), log_p("retain"), by=DECADE)),
    ),
    Shape(
        "15.1",
        TOFU,
        "ascent to the end: utility falls to a tenth of the original's",
        both(below(0.1, utility(GA)), above(0.5, utility("original"))),
    ),
    Shape(
        "15.1",
        TOFU,
        "NPO has the best forget quality of NPO, GA, GradDiff, IDK-DPO, SimNPO and RMU",
        both(
            forgotten("npo"),
            rising(
                most("best of the others", [log_p(s) for s in (GA, "graddiff", "dpo", "simnpo", "rmu")]),
                log_p("npo"),
                by=0.0,
            ),
        ),
    ),
    Shape(
        "15.1",
        TOFU,
        "IDK-DPO: forget quality between the original's and NPO's",
        both(forgotten("dpo/mild", "npo"), rising(log_p("original"), log_p("dpo/mild"), log_p("npo"), by=0.0)),
    ),
    Shape(
        "15.1",
        TOFU,
        "RMU: forget quality between the original's and NPO's",
        both(forgotten("rmu", "npo"), rising(log_p("original"), log_p("rmu"), log_p("npo"), by=0.0)),
    ),
    Shape(
        "15.1",
        TOFU,
        "SimNPO's forget quality is a decade below NPO's",
        both(forgotten("simnpo", "npo"), working("npo"), rising(log_p("simnpo"), log_p("npo"), by=DECADE)),
    ),
    Shape(
        "15.1",
        TOFU,
        "GradDiff's forget quality is a decade below NPO's",
        both(forgotten("graddiff", "npo"), working("npo"), rising(log_p("graddiff"), log_p("npo"), by=DECADE)),
    ),
    Shape(
        "15.1",
        TOFU,
        "truth ratio: the retrained model is above the original (by 0.05)",
        rising(_ratio("original"), _ratio("retain"), by=APART),
    ),
    Shape(
        "15.1",
        TOFU,
        "truth ratio: NPO and RMU end above the retrained model",
        both(
            forgotten("npo", "rmu"),
            working("npo", "rmu"),
            rising(_ratio("retain"), _ratio("npo"), by=0.0),
            rising(_ratio("retain"), _ratio("rmu"), by=0.0),
        ),
    ),
    Shape(
        "15.1",
        TOFU,
        "truth ratio: ascent, GradDiff and SimNPO end below the original",
        both(
            forgotten(GA, "graddiff", "simnpo"),
            *(rising(_ratio(s), _ratio("original"), by=0.0) for s in (GA, "graddiff", "simnpo")),
        ),
    ),
    Shape(
        "15.1",
        TOFU,
        "utility: NPO costs some (0.02 below the original)",
        rising(utility("npo"), utility("original"), by=KEPT),
    ),
    Shape(
        "15.1",
        TOFU,
        "utility: GradDiff costs some (0.02 below the original)",
        rising(utility("graddiff"), utility("original"), by=KEPT),
    ),
    Shape(
        "15.1",
        TOFU,
        "utility: IDK-DPO costs some (0.02 below the original), and more than NPO (0.02)",
        both(
            forgotten("dpo/mild", "npo"),
            rising(utility("dpo/mild"), utility("original"), by=KEPT),
            rising(utility("dpo/mild"), utility("npo"), by=KEPT),
        ),
    ),
    Shape(
        "15.1",
        TOFU,
        "utility: SimNPO keeps more than NPO",
        both(forgotten("simnpo", "npo"), rising(utility("npo"), utility("simnpo"), by=0.0)),
    ),
    Shape(
        "15.1",
        TOFU,
        "few questions are easy: ascent to the end has a p a decade higher on five than on all",
        rising(log_p(GA), log_p(GA, "forget_quality_of_five"), by=DECADE),
    ),
    Shape(
        "1.1, 16",
        "specification",
        "a model of noise passes forget quality (p > 0.05), with a utility below 0.1",
        both(above(-1.3, log_p("noise")), below(0.1, utility("noise"))),
    ),
    Shape(
        "16",
        "specification",
        "a p above 0.05 is no evidence: of the methods, one has it and a UDS below 0.8",
        some("methods", REMOVAL, lambda s: above(-1.3, log_p(s)), lambda s: below(0.8, uds(s))),
    ),
    Shape(
        "12",
        UDS,
        "a composite with one zero is zero: the original's memorisation score, whatever its parts",
        both(near(0.0, composite("original"), within=0.0), above(0.0, value("original", "right_part"))),
        given=True,
    ),
    # Membership.
    Shape(
        "15.2",
        MUSE,
        "membership: the retrained model is near chance (Min-K AUC within two null errors, 0.15, of 0.5)",
        both(working("retain"), near(0.5, value("retain", "membership_min_k", label="AUC retain"), within=0.15)),
    ),
    Shape(
        "15.2",
        MUSE,
        "membership: the original gives its forget set away (Min-K AUC above 0.9)",
        above(0.9, value("original", "membership_min_k", label="AUC original")),
    ),
    Shape("15.2", MUSE, "PrivLeak of the original is negative (below -50)", below(-50.0, priv_leak("original"))),
    Shape(
        "15.2",
        MUSE,
        "PrivLeak: ascent above NPO (ten points)",
        both(forgotten(GA, "npo/mild"), rising(priv_leak("npo/mild"), priv_leak(GA), by=POINTS)),
    ),
    Shape(
        "15.2",
        MUSE,
        "PrivLeak: GradDiff above NPO (ten points)",
        both(forgotten(GD, "npo/mild"), rising(priv_leak("npo/mild"), priv_leak(GD), by=POINTS)),
    ),
    Shape("15.2", MUSE, "PrivLeak: ascent is over-unlearned (News: above ten points)", above(POINTS, priv_leak(GA))),
    Shape(
        "15.2",
        MUSE,
        "PrivLeak: GradDiff is over-unlearned (News: above ten points)",
        above(POINTS, priv_leak(GD)),
    ),
    Shape(
        "15.2",
        MUSE,
        "PrivLeak: NPO is under-unlearned (below minus ten points)",
        both(forgotten("npo/mild"), below(-POINTS, priv_leak("npo/mild"))),
    ),
    Shape(
        "15.2",
        MUSE,
        "PrivLeak: SimNPO is under-unlearned (News: below minus ten points)",
        both(forgotten("simnpo"), below(-POINTS, priv_leak("simnpo"))),
    ),
    Shape(
        "15.2",
        MUSE,
        "answers in words: ascent to the end leaves none (ROUGE below 0.05)",
        both(
            below(APART, value(GA, "forget_rouge", label=f"ROUGE {GA}")),
            above(0.5, value("original", "forget_rouge", label="ROUGE original")),
        ),
    ),
    Shape(
        "15.2",
        MUSE,
        "answers in words: NPO leaves more than the retrained model knows (0.05)",
        both(
            forgotten("npo/mild"),
            rising(
                value("retain", "forget_rouge", label="ROUGE retain"),
                value("npo/mild", "forget_rouge", label="ROUGE npo/mild"),
                by=APART,
            ),
        ),
    ),
    Shape(
        "7, 16",
        MUSE,
        "PrivLeak near 0 without deletion: a model of noise is within 26 points of it",
        both(near(0.0, priv_leak("noise"), within=26.0), below(0.1, utility("noise"))),
    ),
    Shape(
        "7",
        UDS,
        "s_mia: the original is at 0 (below 0.2), the retrained model near 1 (above 0.8)",
        both(below(0.2, value("original", "s_mia")), above(0.8, value("retain", "s_mia"))),
    ),
)
