"""Is the representation still the original's, on what was to be forgotten and on what was to be kept? Hidden states at
the end of the prompt, beside those of models that never learnt the facts."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from jaxtyping import Float

from probes.similarity import Similarity, linear_cka
from vestige.evidence import Evidence, with_control
from vestige.reading import Reading
from vestige.result import Orientation, Result

_MIN_ITEMS = 5
_WIDTH = NormalDist().inv_cdf(0.975)
_EPSILON = 1e-8

Layers = Sequence[Similarity]


def state_similarity(evidence: Evidence) -> list[Result]:
    """Return `forget_state_similarity` and `retain_state_similarity`: debiased linear CKA with the original's states,
    mean over blocks. 1 says that nothing changed inside, whatever the model says; another training run of the same
    model is far from 1 as well, so a low value is no evidence of deletion."""
    return [
        *_similarities(evidence, "forget_state_similarity", "forget", higher_is="leaky"),
        *_similarities(evidence, "retain_state_similarity", "retain", higher_is="useful"),
    ]


def cka_erasure(evidence: Evidence) -> list[Result]:
    """How far the states of the forget prompts went from the original's towards the retrained model's: per block
    (CKA(u, r) - CKA(o, r)) / (1 - CKA(o, r)), clipped to [0, 1], weighted by 1 - CKA(o, r).

    0 is the original and 1 the retrained model by construction. It certifies nothing: other training runs that never
    learnt the facts score low too, as the control shows.
    """
    anchor = evidence.anchor
    if anchor is None:
        why = "needs a model that never learnt the facts (retrained or never-taught)"
        return [_missing("cka_erasure", s.name, "forgotten", why) for s in evidence.subjects]
    reference = _compared(evidence, evidence.original, evidence.readings[anchor], "forget")
    results = []
    for subject in evidence.subjects:
        found = _compared(evidence, evidence.readings[subject.name], evidence.readings[anchor], "forget")
        if isinstance(found, str) or isinstance(reference, str):
            why = found if isinstance(found, str) else str(reference)
            results.append(_missing("cka_erasure", subject.name, "forgotten", why))
            continue
        mine, own = _debiased(found), _debiased(reference)
        layers = _erased(mine, own)
        estimate = _weighted(mine, own)
        each = np.array([_weighted(u, o) for u, o in zip(_without(found).T, _without(reference).T, strict=True)])
        note = "the scale itself, so 1 by construction" if subject.name == anchor else ""
        low, high = _jackknife(estimate, each, least=0.0)
        results.append(
            Result(
                "cka_erasure",
                subject.name,
                estimate,
                low,
                high,
                n=len(each),
                floor=0.0,
                higher_is="forgotten",
                per_layer=tuple(layers.tolist()),
                note=note,
            )
        )
    return with_control(evidence, results)


def _similarities(evidence: Evidence, check: str, split: str, *, higher_is: Orientation) -> list[Result]:
    results = []
    for subject in evidence.subjects:
        found = _compared(evidence, evidence.readings[subject.name], evidence.original, split)
        if isinstance(found, str):
            results.append(_missing(check, subject.name, higher_is, found))
            continue
        layers = _debiased(found)
        low, high = _jackknife(float(layers.mean()), _without(found).mean(0), least=-1.0)
        results.append(
            Result(
                check,
                subject.name,
                float(layers.mean()),
                low,
                high,
                n=len(found[0].without),
                floor=float(np.mean([one.floor for one in found])),
                higher_is=higher_is,
                per_layer=tuple(layers.tolist()),
                note=(
                    f"biased CKA {np.mean([one.biased for one in found]):.2f}, "
                    f"with shuffled rows {np.mean([one.biased_floor for one in found]):.2f}"
                ),
            )
        )
    return with_control(evidence, results)


def _compared(evidence: Evidence, one: Reading, other: Reading, split: str) -> Layers | str:
    """Compare two subjects block by block, or say why that cannot be done."""
    mine, theirs = (getattr(reading, split) for reading in (one, other))
    if mine is None or theirs is None:
        return f"no {split} items were given"
    x, y = mine.hidden, theirs.hidden
    if x.shape[1] != y.shape[1]:
        return f"it has {x.shape[1]} blocks and is compared with {y.shape[1]}, so none has a counterpart"
    if len(x) < _MIN_ITEMS:
        return f"needs at least {_MIN_ITEMS} {split} items, got {len(x)}"
    found = [linear_cka(x[:, layer], y[:, layer], seed=evidence.seed) for layer in range(x.shape[1])]
    if not all(np.isfinite(one.without).all() for one in found):
        return "the states of different prompts are the same in some block, so they have no similarity"
    return found


def _debiased(found: Layers) -> Float[np.ndarray, " n_layers"]:
    return np.array([one.debiased for one in found])


def _without(found: Layers) -> Float[np.ndarray, "n_layers n_items"]:
    return np.stack([one.without for one in found])


def _erased(
    mine: Float[np.ndarray, " n_layers"], own: Float[np.ndarray, " n_layers"]
) -> Float[np.ndarray, " n_layers"]:
    erased: Float[np.ndarray, " n_layers"] = np.clip((mine - own) / (1 - own + _EPSILON), 0.0, 1.0)
    return erased


def _weighted(mine: Float[np.ndarray, " n_layers"], own: Float[np.ndarray, " n_layers"]) -> float:
    weight = np.clip(1 - own, _EPSILON, None)
    return float((_erased(mine, own) * weight).sum() / weight.sum())


def _jackknife(estimate: float, without: Float[np.ndarray, " n"], *, least: float) -> tuple[float, float]:
    """Return a 95 % interval between `least` and 1 from leaving out each item once: resampling would repeat items, and
    repeated rows are alike in any representation."""
    n = len(without)
    error = float(np.sqrt((n - 1) / n * np.square(without - without.mean()).sum()))
    # Rounding may lift the similarity of equal states to just above 1.
    return max(least, estimate - _WIDTH * error), max(estimate, min(1.0, estimate + _WIDTH * error))


def _missing(check: str, name: str, higher_is: Orientation, why: str) -> Result:
    return Result(check, name, None, higher_is=higher_is, note=why)
