"""A gate that knows forget prompts by where their MLP key lies: the box of Key Space Detection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from hooked import HookedModel, Request, UnlearnData
from interventions.batches import split_of
from interventions.calibration import Calibration, calibrated
from interventions.key_box import Detector, keys_at_end, prompt_keys, watched_layers

from .asked import prompts_of


@dataclass(frozen=True, eq=False)
class KeyGate:
    """Fires on prompts whose MLP key at their last token lies in a box around those of the forget prompts.

    Build it with `fit_key_gate`.

    Args:
        detector: One box per watched block.
        calibration: Where it fires; a distance is the size of the box that just holds a key, in units of `k*`.
    """

    detector: Detector
    calibration: Calibration

    def __call__(self, raw: HookedModel, request: Request, /) -> Bool[Tensor, " batch"]:
        batch, asked = prompts_of(request)
        keys = keys_at_end(raw, batch, list(self.detector.boxes))
        return (self.detector.ratio(keys) <= self.calibration.limit) & asked.cpu()


def fit_key_gate(
    model: HookedModel,
    data: UnlearnData,
    *,
    layers: Sequence[int] | None = None,
    false_positive_rate: float = 0.05,
    seed: int = 0,
    batch_size: int = 32,
) -> KeyGate:
    """Fit the detector of `key_space_detection` as a gate, so that it can switch any intervention.

    The box is fitted and sized as there: it fires on a prompt whose key at the last token lies within `alpha k*`
    standard deviations of the forget prompts' mean in every dimension, in any watched block, where `alpha` lets in at
    most a fraction `false_positive_rate` of the retain prompts (barring ties). It reads the last token alone, so a
    paraphrase that ends otherwise, another language, or words appended to the question get past it.

    Args:
        model: Any model with dense MLPs; not changed.
        data: Needs `forget` and `retain`. Of a document the whole text counts as prompt.
        layers: Blocks whose keys are watched; the last one when not given (published).
        false_positive_rate: Largest fraction of retain prompts that may fire, in [0, 1).
        seed: Of the split into folds.
        batch_size: Prompts per forward pass.

    Returns:
        The gate, with its rates on items held out.

    Raises:
        VestigeError: A split is missing, or a setting is out of range.

    Source:
        Li, Sun, Weng 2025, arXiv:2503.21730; see `key_space_detection` for what differs.
    """
    chosen = watched_layers(model, layers)
    forget, retain = (
        prompt_keys(model, split_of(data, split, method="fit_key_gate"), chosen, batch_size=batch_size)
        for split in ("forget", "retain")
    )

    def distances(forget_rows: Tensor, retain_rows: Tensor) -> tuple[Tensor, Tensor]:
        detector = Detector.fit({layer: keys[forget_rows] for layer, keys in forget.items()})
        return detector.ratio(forget), detector.ratio(retain)

    n_forget, n_retain = (len(next(iter(keys.values()))) for keys in (forget, retain))
    calibration = calibrated(
        distances, n_forget=n_forget, n_retain=n_retain, rate=false_positive_rate, seed=seed, reads_retain=False
    )
    return KeyGate(Detector.fit(forget), calibration)
