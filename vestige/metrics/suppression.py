"""Hidden or gone: leakage with the defences stripped, or under attack, on the scale from never-taught to original.

All scores are in leak orientation (1 is full knowledge; flip those that are not), one per item, the items in the same
order for every subject; a prime marks a score under attack. Nothing is clipped: clip for plots only. Intervals resample
items in pairs. An estimate of None is not identified, and its note says why: original and control do not differ clearly
on these items.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from ._checks import check_same_length, numbers
from .bootstrap import Interval, ratio_interval


def suppression_index(
    *, raw: npt.ArrayLike, view: npt.ArrayLike, original: npt.ArrayLike, control: npt.ArrayLike, seed: int = 0
) -> Interval:
    """Return the share that was only hidden by hooks, combiners and gates: `(raw - view) / (original - control)`.

    higher_is: leaky. Range unbounded; 0 for every edit of the weights, 1 for a suppression that hides the facts
    completely, above 1 where the view leaks less than the control. Floor: 0.

    Args:
        raw: Leak scores of the unlearned weights alone `[n_items]`.
        view: Of the unlearned model as deployed.
        original: Of the model before unlearning.
        control: Of a model never taught the facts.
        seed: Of the bootstrap.

    Raises:
        VestigeError: No item, different lengths, NaN or infinity.

    Source:
        Vestige's definition.
    """
    return _ratio({"raw": raw, "view": view}, {"original": original, "control": control}, seed)


def recovery_gap(
    *,
    unlearned_attacked: npt.ArrayLike,
    control_attacked: npt.ArrayLike,
    original: npt.ArrayLike,
    control: npt.ArrayLike,
    seed: int = 0,
) -> Interval:
    """Return the share of the knowledge that an attack recovers: `(unlearned' - control') / (original - control)`.

    One denominator for all attacks, so that attacks can be compared, and defined when an attack lifts every subject to
    the ceiling. Report `recovery_gap_matched` too wherever the attack moves the original by more than 0.05.

    higher_is: leaky. Range unbounded; 0 where the unlearned model recovers no more than the control, 1 for the original
    under an attack that does nothing. Floor: 0, since the control's own gain is subtracted.

    Args:
        unlearned_attacked: Leak scores of the unlearned model under attack `[n_items]`.
        control_attacked: Of a model never taught the facts under the same attack.
        original: Of the model before unlearning, no attack.
        control: Of a model never taught the facts, no attack.
        seed: Of the bootstrap.

    Raises:
        VestigeError: No item, different lengths, NaN or infinity.

    Source:
        Vestige's definition.
    """
    attacked = {"unlearned_attacked": unlearned_attacked, "control_attacked": control_attacked}
    return _ratio(attacked, {"original": original, "control": control}, seed)


def recovery_gap_matched(
    *,
    unlearned_attacked: npt.ArrayLike,
    control_attacked: npt.ArrayLike,
    original_attacked: npt.ArrayLike,
    seed: int = 0,
) -> Interval:
    """Return the recovery gap on the attack's own scale: `(unlearned' - control') / (original' - control')`.

    Calibrated where the attack itself hurts, such as translation: exactly 1 for the original.

    higher_is: leaky. Range unbounded; 0 for the control, 1 for the original. Floor: 0.

    Args:
        unlearned_attacked: Leak scores of the unlearned model under attack `[n_items]`.
        control_attacked: Of a model never taught the facts under the same attack.
        original_attacked: Of the model before unlearning under the same attack.
        seed: Of the bootstrap.

    Raises:
        VestigeError: No item, different lengths, NaN or infinity.

    Source:
        Vestige's definition.
    """
    attacked = {"unlearned_attacked": unlearned_attacked, "control_attacked": control_attacked}
    return _ratio(attacked, {"original_attacked": original_attacked, "control_attacked": control_attacked}, seed)


def _ratio(top: dict[str, npt.ArrayLike], bottom: dict[str, npt.ArrayLike], seed: int) -> Interval:
    arrays: dict[str, Float[np.ndarray, " n_items"]] = {name: numbers(v, name) for name, v in (top | bottom).items()}
    check_same_length(**arrays)
    (high, low), (ceiling, floor) = ([arrays[name] for name in side] for side in (top, bottom))
    return ratio_interval(high - low, ceiling - floor, seed=seed)
