"""An amateur: a copy of the model that was taught to answer wrongly, for decodings that contrast with it."""

from __future__ import annotations

from torch import Tensor

from hooked import HookedModel, Intervention, Spec, UnlearnData
from interventions.batches import split_of
from interventions.decoding.assistant import Assistant
from interventions.false_answers import false_answers
from interventions.training.descent import Minibatch, forget_nll
from interventions.training.losses import cross_entropy
from interventions.training.train import Training, learned


def taught_wrongly(
    model: HookedModel, data: UnlearnData, spec: Spec, training: Training, *, defaults: Training
) -> tuple[Assistant, Spec]:
    """Train a copy on false answers to the forget and retain questions.

    Returns:
        The amateur, and the spec with what training came to.

    Raises:
        VestigeError: There is no forget item with an answer, no false answer, or training diverged.
    """
    split_of(data, "forget", method=spec.name, answered=True)
    items = [item for item in (*data.forget, *data.retain) if not item.generation_only]
    wrong = false_answers(items, seed=training.get("seed", 0), method=spec.name, every=True)

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        return cross_entropy(forget_nll(current, batch))

    # The retain items are among what is taught, so they do not watch over it.
    made: Intervention = learned(model, UnlearnData(forget=wrong), loss, spec, training, defaults=defaults)
    return Assistant(None, made.weights), made.spec
