"""ECO: recognise forget prompts, and corrupt their embeddings until the model answers them by chance."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from math import inf
from typing import Any, Literal

import torch

from hooked import Gate, HookedModel, Intervention, Item, RunningMoments, Spec, UnlearnData, VestigeError
from interventions.batches import split_of
from interventions.calibration import Calibration
from interventions.training.reference import reference_nll

from .asked import prompt_batches
from .corruptions import corruption_of, counts_dimensions, has_strength
from .strength import descend
from .tfidf_gate import fit_tfidf_gate
from .tokens_hit import Places, which_tokens

_SOURCE = "Liu, Wang, Flanigan, Liu 2024, arXiv:2406.07933"
# Start, spacing and rate of the search. The first is published. The second does the same in root mean squares of the
# embedding, where a tenth would change no answer of any model; fractions end at 1.
_ABSOLUTE, _RELATIVE, _FRACTION = (0.1, 0.0999, 100.0), (3.0, 2.997, 1000.0), (0.1, 0.0999, 0.3)


def eco(
    model: HookedModel,
    data: UnlearnData,
    *,
    corruption: str = "rand_noise_first_n",
    n: int = 1,
    places: Places = "all_but_last",
    gate: Gate | Literal["tfidf"] = "tfidf",
    false_positive_rate: float = 0.05,
    strength: float | None = None,
    relative: bool = False,
    target: float | None = None,
    reference: HookedModel | None = None,
    steps: int = 10,
    rate: float | None = None,
    seed: int = 0,
    batch_size: int = 16,
) -> Intervention:
    """Corrupt the prompt embeddings of rows that a gate recognises, as strongly as the target asks.

    Where no `strength` is given it is found by zeroth-order descent on `|p(strength) - target|`, `p` the mean
    probability `exp(-mean NLL)` of the forget answers, read through the intervention; of all strengths that were tried
    the one with the least objective is kept. The weights are untouched and all other rows are bit-identical: this hides
    knowledge. It comes back where the gate is evaded: by paraphrase, translation, an encoding, or a question split over
    turns.

    Args:
        model: Not changed.
        data: Needs `forget`; answers only for the search, and `retain` only for the fitted gate.
        corruption: One of `corruptions.FAMILIES`.
        n: How many dimensions are changed; where `zero_out` and `flip_sign` are concerned the strength says it.
        places: Prompt tokens that are corrupted: `all_but_last`, `all`, or those that spell the `subject` of an item.
        gate: `tfidf` fits one on `forget` and `retain`.
        false_positive_rate: Of the fitted gate.
        strength: Fixed strength, see `corruption_of`; published ones lie between 2 and 1e6.
        relative: Whether strengths count in root mean squares of the embedding's entries over the forget prompts, which
            carry over to other models, instead of its own units (published).
        target: Mean probability of the forget answers to reach, in [0, 1].
        reference: A model never taught the data; without `target`, its mean probability is the target. Without either
            it is the mean `floor` of the forget items.
        steps: Steps of the search, two passes over the forget items each.
        rate: Step per slope of the search; when not given 100 (published), 1000 with `relative`, and 0.3 where
            strengths are fractions. It starts at 0.1, 3 and 0.1.
        seed: Of the noise and of the gate's folds.
        batch_size: Items per forward pass.

    Returns:
        The intervention. Its `spec.settings` hold the strength, the trace of the search, the target, and the mean
        probability before and after; of a gate that has them, its rates on items held out.

    Raises:
        VestigeError: A split, a target or a name is missing, or a setting is out of range.

    Source:
        Liu, Wang, Flanigan, Liu 2024, arXiv:2406.07933. They fine-tune a classifier as gate. Their release minimises
        accuracy, corrupts answers too when a text is scored, and skips prompts of one token.
    """
    which = which_tokens(model, data.forget, places)
    # Names a mistake before anything is fitted.
    corruption_of(corruption, strength=strength or 0.0, which=which, n=n, d_model=model.d_model)
    fitted = isinstance(gate, str)
    if isinstance(gate, str):
        if gate != "tfidf":
            raise VestigeError(f"gate is 'tfidf' or a gate, e.g. from fit_centroid_gate, got {gate!r}")
        gate = fit_tfidf_gate(model, data, false_positive_rate=false_positive_rate, seed=seed)
    unit = embedding_size(model, data.forget, batch_size=batch_size) if relative else 1.0

    def made(value: float, settings: Mapping[str, Any]) -> Intervention:
        scale = 1.0 if counts_dimensions(corruption) else unit
        edit = corruption_of(corruption, strength=scale * value, which=which, n=n, seed=seed, d_model=model.d_model)
        return Intervention(replace(spec, settings=settings), embedding=edit, gate=gate)

    needs = ("forget", *(("retain",) if fitted else ()), *(("reference",) if reference is not None else ()))
    spec = Spec("eco", "suppression", needs, _SOURCE)
    settings: dict[str, Any] = {
        "corruption": corruption,
        "n": n,
        "places": places,
        "relative": relative,
        "unit": unit,
        "seed": seed,
        "gate": type(gate).__name__,
    }
    calibration = getattr(gate, "calibration", None)
    if isinstance(calibration, Calibration):
        settings |= asdict(calibration)
    if strength is None and has_strength(corruption):
        items = split_of(data, "forget", method="eco without a strength", answered=True)
        goal = _target(items, target, reference, batch_size=batch_size)

        def probability(value: float) -> float:
            with made(value, {}).applied(model) as view:
                return mean_probability(view, items, batch_size=batch_size)

        fraction = counts_dimensions(corruption)
        start, spacing, usual = _FRACTION if fraction else _RELATIVE if relative else _ABSOLUTE
        found = descend(
            lambda value: abs(probability(value) - goal),
            steps=steps,
            start=start,
            rate=usual if rate is None else rate,
            spacing=spacing,
            largest=1.0 if fraction else inf,
        )
        strength, before = found.best, mean_probability(model, items, batch_size=batch_size)
        after = probability(strength)
        _warn(before=before, after=after, target=goal)
        settings |= {"target": goal, "probability_before": before, "probability_after": after, "strengths": found.trace}
    return made(strength or 0.0, {**settings, "strength": strength})


def mean_probability(model: HookedModel, items: Sequence[Item], *, batch_size: int) -> float:
    """Return the mean over items of `exp(-mean NLL)` of the answer: its length-normalised probability."""
    return float(torch.exp(-reference_nll(model, items, batch_size=batch_size).mean).mean())


@torch.no_grad()
def embedding_size(model: HookedModel, items: Sequence[Item], *, batch_size: int) -> float:
    """Return the root mean square of the entries of the embedding, over the prompt tokens of some items."""
    total = RunningMoments.empty(model.d_model)
    for batch in prompt_batches(model, items, batch_size=batch_size):
        acts = model.run_with_cache(batch, names_filter="hook_embed", return_type=None)[1]["hook_embed"]
        total = total.merge(RunningMoments.of(acts, mask=batch.mask))
    return float((total.variance + total.mean.square()).mean().sqrt())


def _target(items: Sequence[Item], target: float | None, reference: HookedModel | None, *, batch_size: int) -> float:
    if target is None and reference is not None:
        return mean_probability(reference, items, batch_size=batch_size)
    floors = [item.floor for item in items if item.floor is not None]
    if target is None and len(floors) == len(items):
        return sum(floors) / len(floors)
    if target is None:
        raise VestigeError(
            f"eco looks for the strength at which the forget answers reach a target, and {len(items) - len(floors)} of "
            f"{len(items)} items have no floor; pass target=, reference=, or strength= itself"
        )
    if not 0 <= target <= 1:
        raise VestigeError(f"target is a probability in [0, 1], got {target}")
    return target


def _warn(*, before: float, after: float, target: float) -> None:
    if abs(after - target) > 0.5 * abs(before - target):
        warnings.warn(
            f"eco took the mean probability of the forget answers from {before:.3g} to {after:.3g}, not to the target "
            f"{target:.3g}: the gate misses prompts, or the search stood still or jumped too far; change relative=, "
            "rate= or n=, or give strength= itself",
            UserWarning,
            stacklevel=3,
        )
