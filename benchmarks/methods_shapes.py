"""What each paper says should come out, as a question to the records of one concept and one seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Records = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Shape:
    """A direction that a paper claims.

    Args:
        methods: Which methods it is about; asked only where all of them were measured.
        paper: arXiv number.
        says: The direction in words, with the numbers it is judged by.
        holds: Whether one run shows it.
    """

    methods: tuple[str, ...]
    paper: str
    says: str
    holds: Callable[[Records], bool]


def value(records: Records, method: str, check: str) -> float:
    """Return the estimate of a check; NaN where it has none, so that every comparison with it fails."""
    estimate = records[method]["results"].get(check, {}).get("estimate")
    return float("nan") if estimate is None else float(estimate)


def left(records: Records, method: str) -> float:
    """How much of the forget answers' probability is left, over both phrasings, as a share of the original's."""
    checks = ("forget_probability", "paraphrase_probability")
    return sum(value(records, method, c) / value(records, "original", c) for c in checks) / 2


def asked_left(records: Records, method: str) -> float:
    """The same in the phrasing that was given to the method."""
    return value(records, method, "forget_probability") / value(records, "original", "forget_probability")


def kept(records: Records, method: str) -> float:
    """How much of the retain answers' probability is kept, as a share of the original's."""
    return value(records, method, "retain_probability") / value(records, "original", "retain_probability")


def _forgets(*methods: str, keeps: float = 0.9) -> Callable[[Records], bool]:
    return lambda r: all(left(r, m) < 0.5 and kept(r, m) > keeps for m in methods)


def _traces(*methods: str) -> Callable[[Records], bool]:
    return lambda r: all(asked_left(r, m) < 0.5 and value(r, m, "concept_vector_cosine") > 0.98 for m in methods)


def _raw(*methods: str) -> Callable[[Records], bool]:
    return lambda r: all(
        r[m]["inside"]["raw_is_original"] and not r[m]["inside"]["changed_parameters"] for m in methods
    )


def _keeps_more(better: str, worse: str) -> Callable[[Records], bool]:
    return lambda r: asked_left(r, better) < 0.5 and kept(r, better) > kept(r, worse)


def _hurts_more(method: str) -> Callable[[Records], bool]:
    return lambda r: asked_left(r, method) < kept(r, method) - 0.05


def _shape(methods: str, paper: str, says: str, holds: Callable[[Records], bool]) -> Shape:
    return Shape(tuple(methods.split()), paper, says, holds)


SHAPES: Sequence[Shape] = (
    _shape("gradient_ascent", "2310.10683", "forgets, and costs utility (kept below 0.9)",
           lambda r: left(r, "gradient_ascent") < 0.5 and kept(r, "gradient_ascent") < 0.9),
    _shape("npo gradient_ascent", "2404.05868", "keeps more than gradient ascent",
           _keeps_more("npo", "gradient_ascent")),
    _shape("gradient_difference gradient_ascent npo", "2401.06121", "keeps more than gradient ascent and less than NPO",
           lambda r: kept(r, "gradient_ascent") < kept(r, "gradient_difference") < kept(r, "npo")),
    _shape("llmu gradient_ascent", "2310.10683", "the normal-text term keeps more than ascent alone",
           _keeps_more("llmu", "gradient_ascent")),
    _shape("gradient_ascent_kl gradient_ascent", "2401.06121", "the KL term keeps more than ascent alone",
           _keeps_more("gradient_ascent_kl", "gradient_ascent")),
    _shape("wga gradient_ascent", "2502.19301", "weighting keeps more than plain ascent",
           _keeps_more("wga", "gradient_ascent")),
    _shape("simnpo", "2410.07163", "forgets (left below 0.5) and keeps above 0.9", _forgets("simnpo")),
    _shape("undial", "2402.10052", "forgets (left below 0.5) and keeps above 0.9", _forgets("undial")),
    _shape("loku gradient_ascent", "2408.06621", "forgets and keeps more than gradient ascent",
           _keeps_more("loku", "gradient_ascent")),
    _shape("gradient_ascent npo idk_dpo flat", "2406.11614",
           "behaviour falls (left below 0.5) while the concept vectors keep a cosine above 0.98",
           _traces("gradient_ascent", "npo", "idk_dpo", "flat")),
    _shape("ablate_vectors", "2406.11614", "the concept's own facts suffer more than the others (by 0.05)",
           _hurts_more("ablate_vectors")),
    _shape("needle_tune gradient_ascent", "2406.11614", "a better trade-off (kept minus left) than gradient ascent",
           lambda r: kept(r, "needle_tune") - left(r, "needle_tune")
           > kept(r, "gradient_ascent") - left(r, "gradient_ascent")),
    _shape("idk_finetune npo", "2401.06121", "refuses while the lens still sees more than after NPO",
           lambda r: asked_left(r, "idk_finetune") < 0.5
           and value(r, "idk_finetune", "lens_leak") > value(r, "npo", "lens_leak")),
    _shape("flat", "2410.11143", "forgets as asked (below 0.5) and keeps above 0.9",
           lambda r: asked_left(r, "flat") < 0.5 and kept(r, "flat") > 0.9),
    _shape("task_vector", "2212.04089", "the negated vector hurts the forget facts more than the others (by 0.05)",
           _hurts_more("task_vector")),
    _shape("rmu", "2403.03218", "forgets as asked (below 0.5), keeps above 0.9",
           lambda r: asked_left(r, "rmu") < 0.5 and kept(r, "rmu") > 0.9),
    _shape("circuit_breakers", "2406.04313", "forgets as asked (below 0.5), keeps above 0.9",
           lambda r: asked_left(r, "circuit_breakers") < 0.5 and kept(r, "circuit_breakers") > 0.9),
    _shape("whp", "2310.02238", "familiarity falls (below 0.5) while value vectors stay (cosine above 0.98)",
           _traces("whp")),
    _shape("neuron_adjust", "2503.21730", "the forget facts fall more than the others (by 0.05)",
           _hurts_more("neuron_adjust")),
    _shape("key_space_detection neuron_adjust selective_pruning", "2503.21730",
           "detection is more selective (kept minus left as asked) than adjustment and than pruning",
           lambda r: kept(r, "key_space_detection") - asked_left(r, "key_space_detection")
           > max(kept(r, m) - asked_left(r, m) for m in ("neuron_adjust", "selective_pruning"))),
    _shape("uld", "2406.08607", "forgets (left below 0.5) at almost no cost (kept above 0.95)",
           _forgets("uld", keeps=0.95)),
    _shape("offset_unlearning", "2404.11045", "forgets as asked (below 0.5) and keeps above 0.9",
           lambda r: asked_left(r, "offset_unlearning") < 0.5 and kept(r, "offset_unlearning") > 0.9),
    _shape("eco", "2406.07933",
           "flagged prompts fall below 0.5; at most a tenth of prompts that were not given is touched at all",
           lambda r: asked_left(r, "eco") < 0.5 and r["eco"]["inside"]["retain_prompts_touched"] <= 0.1),
    _shape("neuron_adjust key_space_detection uld eco dola icd lol", "2506.09227",
           "suppression: the weights alone are the original's, bit by bit",
           _raw("neuron_adjust", "key_space_detection", "uld", "eco", "dola", "icd", "lol")),
    _shape("fact_erasure head_projection max_entropy error_injection empty_response", "2309.17410",
           "fact erasure costs the other facts least of the five",
           lambda r: asked_left(r, "fact_erasure") < 0.5 and kept(r, "fact_erasure")
           >= max(kept(r, m) for m in ("head_projection", "max_entropy", "error_injection", "empty_response"))),
    _shape("head_projection fact_erasure", "2309.17410", "the lens sees less after head projection than after erasure",
           lambda r: value(r, "head_projection", "lens_leak") < value(r, "fact_erasure", "lens_leak")),
    _shape("crisp", "2508.13650", "forgets in the weights (left below 0.5), keeps above 0.9", _forgets("crisp")),
    _shape("pisces", "2505.22586", "the concept's own facts suffer more than the others (by 0.05)",
           _hurts_more("pisces")),
    _shape("sauce", "2503.14530", "the concept's own facts suffer more than the others (by 0.05)",
           _hurts_more("sauce")),
)  # fmt: skip
