"""What the shapes read off the numbers of one seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import isfinite, log10, nan
from statistics import median

from scipy.stats import spearmanr

from benchmarks.shapes.claims import Claim, Numbers, Term, above, below, both
from benchmarks.shapes.runs import ASKED
from vestige.metrics.meta import quantisation_robustness, relearning_robustness
from vestige.metrics.privacy import auc_member
from vestige.metrics.relearning import speed_up
from vestige.metrics.utility import harmonic_mean

# Shares are read to about this; moves below it are noise (as in calibration).
EPSILON = 0.02
# The first parts of the names in the pool: models that know, and models that do not.
POOL = ("knows", "ignorant")


def value(subject: str, name: str, *, label: str | None = None) -> Term:
    """Return a number as it was measured."""
    return Term(label or f"{name} of {subject}", lambda n: n.get(subject, {}).get(name, nan))


def uds(subject: str) -> Term:
    """Return the Unlearning Depth Score: 0 the original, 1 the retrained model."""
    return Term(f"UDS {subject}", lambda n: 1 - n.get(subject, {}).get("depth_leak", nan))


def lens_uds(subject: str) -> Term:
    """Return the same score without patching, read off the logit lens."""
    return Term(f"lens UDS {subject}", lambda n: 1 - n.get(subject, {}).get("lens_depth_leak", nan))


def left(subject: str) -> Term:
    """Return the share of the forget answers' probability that is left."""

    def read(n: Numbers) -> float:
        return value(subject, "forget_probability").read(n) / value("original", "forget_probability").read(n)

    return Term(f"left {subject}", read)


def log_p(subject: str, name: str = "forget_quality") -> Term:
    """Return log10 of the forget quality."""

    def read(n: Numbers) -> float:
        p = value(subject, name).read(n)
        return log10(p) if p > 0 else nan

    return Term(f"log10 {'p' if name == 'forget_quality' else 'p, five items,'} {subject}", read)


def gained(subject: str, attack: str) -> Term:
    """Return what an attack adds to the probability of the answers when plainly asked."""
    return Term(
        f"{attack} over plain, {subject}",
        lambda n: value(subject, attack).read(n) - value(subject, "plain").read(n),
    )


def ahead(subject: str, attack: str) -> Term:
    """Return how far an attack on a subject ends above the same attack on the model that never knew."""
    return Term(
        f"{attack} over never, {subject}",
        lambda n: value(subject, attack).read(n) - value("never", attack).read(n),
    )


def said(subject: str, attack: str) -> Term:
    """Return what an attack that is not scored by probability finds beyond the words of the plain reply."""
    return Term(
        f"{attack} over reply, {subject}",
        lambda n: value(subject, attack).read(n) - value(subject, "forget_rouge").read(n),
    )


def forgotten(*subjects: str) -> Claim:
    """Decide that less than half of the answers' probability is left when plainly asked.

    What an attack brings back, or what is still found inside, means nothing of a model that had not forgotten.
    """
    return below(0.5, *(left(s) for s in subjects))


def working(*subjects: str) -> Claim:
    """Decide that a subject still has a utility above 0.5: a broken model shows nothing of what it is asked."""
    return above(0.5, *(utility(s) for s in subjects))


def recovered(attack: str, *subjects: str, by: float) -> Claim:
    """Decide that an attack brings answers back: they had been forgotten, and the attack ends so far above the plain
    question and above the model that never knew, attacked alike."""
    return both(
        forgotten(*subjects),
        above(by, *(gained(s, attack) for s in subjects)),
        above(by, *(ahead(s, attack) for s in subjects)),
    )


def uncovered(attack: str, *subjects: str, by: float) -> Claim:
    """Decide the same of an attack that is scored by the words or candidates it finds, against the plain reply."""
    return both(
        forgotten(*subjects),
        above(by, *(said(s, attack) for s in subjects)),
        above(by, *(ahead(s, attack) for s in subjects)),
    )


def most(what: str, terms: Sequence[Term]) -> Term:
    """Return the largest of terms; NaN where one is missing."""
    return Term(what, lambda n: _all(max, [t.read(n) for t in terms]))


def least(what: str, terms: Sequence[Term]) -> Term:
    """Return the smallest of terms; NaN where one is missing."""
    return Term(what, lambda n: _all(min, [t.read(n) for t in terms]))


def middle(what: str, terms: Sequence[Term]) -> Term:
    """Return the median of terms; NaN where one is missing."""
    return Term(what, lambda n: _all(median, [t.read(n) for t in terms]))


def _all(combine: Callable[[Sequence[float]], float], values: Sequence[float]) -> float:
    return float(combine(values)) if values and all(map(isfinite, values)) else nan


def agreement(what: str, one: Callable[[str], Term], other: Callable[[str], Term], subjects: Sequence[str]) -> Term:
    """Return the rank correlation of two terms over subjects."""

    def read(n: Numbers) -> float:
        pairs = [(one(s).read(n), other(s).read(n)) for s in subjects]
        return float(spearmanr(pairs).statistic) if all(isfinite(x) for pair in pairs for x in pair) else nan

    return Term(what, read)


def faster(subject: str, attack: str = "relearning:forget") -> Term:
    """Return how many times fewer steps to half of the knowledge a subject takes than the model that never knew."""

    def curve(n: Numbers, name: str) -> dict[int, float]:
        prefix = f"{attack} "
        return {
            int(key.removeprefix(prefix)): score
            for key, score in n.get(name, {}).items()
            if key.startswith(prefix) and key.removeprefix(prefix).isdigit()
        }

    def read(n: Numbers) -> float:
        mine, control, original = (curve(n, name) for name in (subject, "never", "original"))
        if not (mine and control and original):
            return nan
        found = speed_up(unlearned=mine, control=control, original=original).value
        return nan if found is None else found

    return Term(f"speed-up {subject}", read)


def faithful(metric: str, *, forgotten: bool = False) -> Term:
    """Return the AUC of a metric between the models of the pool that know and those that do not."""

    def read(n: Numbers) -> float:
        values = {s: v[metric] for s, v in n.items() if s.split(",")[0] in POOL and metric in v}
        knows = [s.split(",")[0] == POOL[0] for s in values]
        if len(set(knows)) < 2 or len(values) < sum(s.split(",")[0] in POOL for s in n):
            return nan
        signed = [-v if forgotten else v for v in values.values()]
        sides = [[v for v, known in zip(signed, knows, strict=True) if known is side] for side in (False, True)]
        # The chance that a model that knows scores above one that does not.
        return auc_member(*sides)

    return Term(f"AUC {metric}", read)


def robust(metric: str, tampered: Sequence[str], state: str, *, forgotten: bool = False) -> Term:
    """Return the mean robustness of a metric against relearning or rounding (`relearned`, `rounded`) over methods.

    Where neither the model nor the retrained one moves under relearning, the metric is deaf there and the method is
    left out.
    """

    def of(n: Numbers, subject: str) -> float:
        share = value(subject, metric).read(n)
        return 1 - share if forgotten else share

    def read(n: Numbers) -> float:
        scores = []
        for name in tampered:
            before, after = of(n, name), of(n, f"{name}, {state}")
            control, control_after = of(n, "retain"), of(n, "retrained, relearned")
            if state == "rounded":
                scores.append(quantisation_robustness(before=before, after=after, epsilon=EPSILON))
                continue
            kept = relearning_robustness(
                unlearned=before,
                unlearned_relearned=after,
                retrained=control,
                retrained_relearned=control_after,
                epsilon=EPSILON,
            )
            scores += [] if kept is None else [kept]
        return _all(lambda x: sum(x) / len(x), scores)

    return Term(f"{'R' if state == 'relearned' else 'Q'} {metric}", read)


def composite(subject: str) -> Term:
    """Return the harmonic mean of four memorisation metrics, each 1 where nothing is left."""
    parts = ("extraction_strength", "exact_memorization", "paraphrase_probability", "right_part")

    def read(n: Numbers) -> float:
        values = [1 - value(subject, part).read(n) for part in parts]
        return harmonic_mean(values) if all(map(isfinite, values)) else nan

    return Term(f"Mem {subject}", read)


def utility(subject: str) -> Term:
    """Return the model utility."""
    return value(subject, "model_utility", label=f"utility {subject}")


def priv_leak(subject: str) -> Term:
    """Return PrivLeak, in points."""
    return value(subject, "priv_leak", label=f"PrivLeak {subject}")


def lens(subject: str) -> Term:
    """Return the success of the lens attack."""
    return value(subject, "lens_attack", label=f"lens attack {subject}")


def best_prompt(subject: str) -> Term:
    """Return what the best of the prompts that only ask adds to the plain question."""
    return most(f"best prompt over plain, {subject}", [gained(subject, attack) for attack in ASKED])
