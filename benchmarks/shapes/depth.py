"""Shapes of what is read inside, first of all the Unlearning Depth Score, and of what metrics themselves are worth."""

from __future__ import annotations

from benchmarks.shapes.claims import APART, KEPT, Shape, above, alike, below, both, near, rising, some
from benchmarks.shapes.runs import HOOKS, REMOVAL, RUNGS, TAMPERED
from benchmarks.shapes.terms import (
    Term,
    agreement,
    faithful,
    forgotten,
    least,
    left,
    lens_uds,
    middle,
    most,
    robust,
    uds,
    utility,
    value,
    working,
)

UDS = "UDS, arXiv:2605.24614"

# Metric to whether a high value means forgotten: those of the published table that the audit has.
METRICS = {
    "depth_leak": False,
    "lens_depth_leak": False,
    "truth_ratio": False,
    "membership_min_k": False,
    "extraction_strength": False,
    "exact_memorization": False,
    "forget_probability": False,
    "paraphrase_probability": False,
    "forget_rouge": False,
    "cka_erasure": True,
}


def _auc(name: str) -> Term:
    return faithful("right_part" if name == "truth_ratio" else name, forgotten=METRICS[name])


def _r(name: str) -> Term:
    return robust("right_part" if name == "truth_ratio" else name, TAMPERED, "relearned", forgotten=METRICS[name])


def _q(name: str) -> Term:
    return robust("right_part" if name == "truth_ratio" else name, TAMPERED, "rounded", forgotten=METRICS[name])


_NPOS, _IDKS, _GDS, _RMUS = (tuple(f"{name}/{rung}" for rung in RUNGS) for name in ("npo", "idk", "graddiff", "rmu"))
_NPO, _IDK, _GD, _RMU = (
    middle(f"median UDS {names[0].split('/')[0]}", [uds(s) for s in names]) for names in (_NPOS, _IDKS, _GDS, _RMUS)
)


def _others(*names: str) -> list[str]:
    return [name for name in METRICS if name not in names]


DEPTH_SHAPES: tuple[Shape, ...] = (
    Shape(
        "15.3",
        UDS,
        "UDS is 0 for the original and 1 for the retrained model",
        both(near(0.0, uds("original"), within=1e-6), near(1.0, uds("retain"), within=1e-6)),
        given=True,
    ),
    Shape(
        "15.3",
        UDS,
        "UDS of a single run: IDK-NLL below NPO (0.05)",
        both(forgotten("idk", "npo"), working("npo"), rising(uds("idk"), uds("npo"), by=APART)),
    ),
    Shape(
        "15.3",
        UDS,
        "UDS over a sweep: the median of IDK-NLL below that of NPO (0.05)",
        both(forgotten(*_IDKS, *_NPOS), working(*_NPOS), rising(_IDK, _NPO, by=APART)),
    ),
    Shape(
        "15.3",
        UDS,
        "UDS over a sweep: the median of RMU below that of NPO (0.05)",
        both(forgotten(*_RMUS, *_NPOS), rising(_RMU, _NPO, by=APART)),
    ),
    Shape(
        "B.8",
        UDS,
        "UDS over a sweep: the median of NPO below that of GradDiff (0.05)",
        both(forgotten(*_NPOS, *_GDS), rising(_NPO, _GD, by=APART)),
    ),
    Shape(
        "15.3",
        UDS,
        "IDK-NLL leaves most of the knowledge patchable (median UDS below 0.5)",
        both(forgotten(*_IDKS), below(0.5, _IDK)),
    ),
    Shape(
        "15.3",
        UDS,
        "RMU leaves most of the knowledge patchable (median UDS below 0.5)",
        both(forgotten(*_RMUS), below(0.5, _RMU)),
    ),
    Shape(
        "15.3",
        UDS,
        "GradDiff reaches deep (median UDS above 0.5) and pays for it (utility 0.02 below the original)",
        both(
            forgotten(*_GDS),
            working(_GDS[1]),
            above(0.5, _GD),
            rising(utility(_GDS[1]), utility("original"), by=KEPT),
        ),
    ),
    Shape(
        "15.3",
        UDS,
        "the lens twin ranks the methods as UDS does (rank correlation above 0.7)",
        above(0.7, agreement("rank correlation", uds, lens_uds, REMOVAL)),
    ),
    Shape(
        "5",
        UDS,
        "hooks: UDS of the bare weights is 0 by construction",
        near(1.0, *(value(s, "raw_depth_leak") for s in HOOKS), within=1e-6),
        given=True,
    ),
    Shape(
        "4, vision 6",
        "arXiv:2503.06991",
        "a zeroed readout forgets in the logits (left below 0.05), and its states, probe and UDS are the original's",
        both(
            below(APART, left("readout zeroed")),
            near(1.0, value("readout zeroed", "forget_state_similarity"), within=1e-3),
            near(0.0, uds("readout zeroed"), within=1e-3),
            alike(value("readout zeroed", "probe_leak"), value("original", "probe_leak"), within=1e-3),
        ),
    ),
    Shape(
        "4",
        "toy measurement",
        "the retrained model's own probe is above chance (0.05 above 0.5)",
        above(0.55, value("retain", "probe_leak")),
    ),
    Shape(
        "vision 6",
        "toy measurement",
        "the probe stays above the retrained model's after NPO, IDK, RMU and GradDiff",
        both(
            forgotten("npo", "idk", "rmu", "graddiff"),
            rising(
                value("retain", "probe_leak"),
                least("least probe of the four", [value(s, "probe_leak") for s in ("npo", "idk", "rmu", "graddiff")]),
                by=0.0,
            ),
        ),
    ),
    Shape(
        "11",
        "SoK, arXiv:2506.09227",
        "methods that say they remove act as suppression: at least half of them forget (left below 0.5) and have a UDS "
        "below 0.8",
        some("methods", REMOVAL, forgotten, lambda s: below(0.8, uds(s)), least=len(REMOVAL) // 2),
    ),
    Shape(
        "text 8",
        "FLAT, arXiv:2410.11143",
        "FLAT hides: behaviour falls (left below 0.5), UDS stays below 0.5",
        below(0.5, left("flat/mild"), uds("flat/mild")),
    ),
    # What the metrics themselves are worth.
    Shape(
        "15.3",
        UDS,
        "faithfulness: no metric is above UDS",
        rising(most("best of the others", [_auc(m) for m in _others("depth_leak")]), _auc("depth_leak"), by=-1e-9),
    ),
    Shape("15.3", UDS, "faithfulness: UDS is above 0.9", above(0.9, _auc("depth_leak"))),
    Shape(
        "15.3",
        UDS,
        "faithfulness: answers in words (ROUGE) rank below UDS (0.05)",
        rising(_auc("forget_rouge"), _auc("depth_leak"), by=APART),
    ),
    Shape(
        "15.3",
        UDS,
        "faithfulness: the probability ranks below UDS (0.05)",
        rising(_auc("forget_probability"), _auc("depth_leak"), by=APART),
    ),
    Shape(
        "15.3",
        UDS,
        "faithfulness: exact memorisation ranks below UDS (0.05)",
        rising(_auc("exact_memorization"), _auc("depth_leak"), by=APART),
    ),
    Shape(
        "15.3",
        UDS,
        "faithfulness: the lens twin ranks above ROUGE (0.05)",
        rising(_auc("forget_rouge"), _auc("lens_depth_leak"), by=APART),
    ),
    Shape(
        "15.3",
        UDS,
        "faithfulness: the truth ratio ranks above ROUGE (0.05)",
        rising(_auc("forget_rouge"), _auc("truth_ratio"), by=APART),
    ),
    Shape(
        "4, 15.3",
        UDS,
        "faithfulness: CKA erasure ranks last",
        rising(_auc("cka_erasure"), least("least of the others", [_auc(m) for m in _others("cka_erasure")]), by=-1e-9),
    ),
    Shape(
        "15.3",
        UDS,
        "relearning robustness: UDS above ROUGE (0.05)",
        both(forgotten(*TAMPERED), working(*TAMPERED), rising(_r("forget_rouge"), _r("depth_leak"), by=APART)),
    ),
    Shape(
        "15.3",
        UDS,
        "relearning robustness: UDS above the truth ratio (0.05)",
        both(forgotten(*TAMPERED), working(*TAMPERED), rising(_r("truth_ratio"), _r("depth_leak"), by=APART)),
    ),
    Shape(
        "4, 15.3",
        UDS,
        "relearning robustness: CKA erasure ranks last",
        both(
            forgotten(*TAMPERED),
            working(*TAMPERED),
            rising(_r("cka_erasure"), least("least of the others", [_r(m) for m in _others("cka_erasure")]), by=-1e-9),
        ),
    ),
    Shape(
        "15.3",
        UDS,
        "quantisation robustness: UDS above 0.9",
        both(forgotten(*TAMPERED), working(*TAMPERED), above(0.9, _q("depth_leak"))),
    ),
)
