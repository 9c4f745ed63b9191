"""What an attack is given and what it returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from torch import Tensor

from hooked import Decoder, HookedModel
from vestige.result import Kind

Measure = Literal["probability", "subject", "translation", "choice", "candidates", "recall", "accuracy"]


@dataclass(frozen=True)
class Notes:
    """What somebody who once had the original model wrote down about it; attacks may use it on every subject.

    Args:
        decoder: Final norm and unembedding, frozen.
        forget: Residual stream after each block at the last prompt token of the forget items.
        retain: The same for the retain items; None without them.
        vectors: Value vectors that are about the concept, by (layer, neuron).
    """

    decoder: Decoder
    forget: Float[np.ndarray, "n_forget n_layers d_model"]
    retain: Float[np.ndarray, "n_retain n_layers d_model"] | None
    vectors: Mapping[tuple[int, int], Float[Tensor, " d_model"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """One subject under attack, while it is open.

    Args:
        name: Unique name.
        kind: Its role in the comparison.
        view: The deployed system: weights, hooks, combiners and gates.
        raw: The same weights with everything else stripped.
        notes: Of the original model.
    """

    name: str
    kind: Kind
    view: HookedModel
    raw: HookedModel
    notes: Notes


@dataclass(frozen=True)
class Attacked:
    """What an attack got out of one subject.

    Args:
        scores: One per forget item, in [0, 1]; 1 is full knowledge.
        measure: What they are: the length-normalised `probability` of the answer, of its `subject` or of its
            `translation`, the share that a right `choice` takes among wrong ones, whether the answer is in a list of
            `candidates`, ROUGE-L `recall` of what is written, or the `accuracy` of what is read out.
        floor: What chance scores on the same items; None where chance is undefined.
        curve: Steps of the attacker to the mean score after them.
        per_layer: Mean score per block, for attacks that look inside.
        budget: What was spent, e.g. `{"queries": 16, "steps": 50}`.
        note: A reason or a reading hint; one sentence.
    """

    scores: tuple[float, ...]
    measure: Measure = "probability"
    floor: float | None = None
    curve: Mapping[int, float] | None = None
    per_layer: tuple[float, ...] | None = None
    budget: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
