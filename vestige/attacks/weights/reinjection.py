"""Re-injection: give a subject the concept's value vectors of the original back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData, VestigeError
from interventions.steer import steer
from probes import find_concept_vectors
from vestige.attacks.asked import asked
from vestige.attacks.attacked import Attacked, Target
from vestige.attacks.most_leaking import most_leaking

Neuron = tuple[int, int]
Into = Literal["weights", "stream"]


def reinjection(
    target: Target,
    data: UnlearnData,
    *,
    vectors: Mapping[Neuron, Float[Tensor, " d_model"]] | None = None,
    into: Into = "weights",
    alphas: Sequence[float] = (1.0, 4.0, 16.0),
    batch_size: int = 32,
    seed: int = 0,
) -> Attacked:
    """Put concept vectors of the original back into the subject, and ask.

    What comes back with the weights was removed from these vectors alone, while the subject still fires the neurons
    that carry them; nothing comes back where it no longer does.

    Args:
        target: The subject.
        data: Its forget items are asked.
        vectors: `(layer, neuron)` to the original's value vector, as `value_vectors_about` finds them; those of the
            notes when not given.
        into: `weights` writes every vector into the row that it came from. `stream` adds `alpha` times the mean vector
            of a block to its output from the last prompt token on, whatever the neurons do; the most leaking block and
            factor count.
        alphas: Factors that `stream` tries.
        batch_size: Rows per forward pass.
        seed: Nothing is drawn here.

    Raises:
        VestigeError: There are no vectors or factors, one does not fit the subject, `into` is unknown, or an item has
            no answer.

    Source:
        Vestige's definition; the vectors are those of Hong et al. 2024, arXiv:2406.11614.
    """
    vectors = vectors or target.notes.vectors
    if not vectors:
        raise VestigeError("reinjection needs value vectors of the original; give words of the concept (lexicon=)")
    if into not in get_args(Into):
        raise VestigeError(f"into is 'weights' or 'stream', got {into!r}")
    if into == "weights":
        patch = target.view.value_patch(vectors)
        with Intervention(Spec("reinjection", "attack"), weights=patch).applied(target.view) as view:
            found = asked(view, data.forget, batch_size=batch_size)
        return replace(found, budget={**found.budget, "vectors": len(vectors)})
    if not alphas:
        raise VestigeError("reinjection into the stream needs at least one factor in alphas=")
    blocks = sorted({layer for layer, _ in vectors})

    def run(setting: tuple[int, float]) -> Attacked:
        layer, alpha = setting
        mean = torch.stack([vector.float() for (at, _), vector in vectors.items() if at == layer]).mean(0)
        sites = [("resid_post", layer)]
        with steer(mean, sites=sites, coefficient=alpha, positions="answer", intent="attack").applied(
            target.view
        ) as view:
            return asked(view, data.forget, batch_size=batch_size)

    (layer, alpha), found = most_leaking([(layer, alpha) for layer in blocks for alpha in alphas], run)
    budget = {**found.budget, "vectors": len(vectors), "block": layer, "alpha": alpha}
    return replace(found, budget=budget, note=f"most leaking at block {layer} with factor {alpha:g}")


def value_vectors_about(
    original: HookedModel, words: Sequence[str], *, top: int = 10
) -> dict[Neuron, Float[Tensor, " d_model"]]:
    """Return copies of the original's value vectors that are most about some words.

    Args:
        original: The model before unlearning.
        words: Of the concept.
        top: How many vectors.

    Raises:
        VestigeError: As `probes.find_concept_vectors`.
    """
    found = find_concept_vectors(original, lexicon=words, top=top)
    return {
        (vector.layer, vector.neuron): original.value_vectors(vector.layer)[vector.neuron]
        .detach()
        .float()
        .cpu()
        .clone()
        for vector in found
    }
