"""An amateur: a copy of the model that was taught to answer wrongly, for decodings that contrast with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from hooked import HookedModel, Intervention, Item, Spec, UnlearnData, VestigeError
from interventions.batches import split_of
from interventions.decoding.assistant import Assistant
from interventions.training.descent import Minibatch, forget_nll
from interventions.training.losses import cross_entropy
from interventions.training.train import Training, learned


def false_answers(items: Sequence[Item], *, seed: int, method: str) -> tuple[Item, ...]:
    """Return the items with wrong answers.

    Args:
        items: Their `perturbed_answers` are taken, one item each; an item without any gets the answer of another one,
            drawn by `seed`.
        seed: Of the draw.
        method: Who asks, for the message.

    Raises:
        VestigeError: An item has no wrong answer, and all items have the same right one.
    """
    generator = torch.Generator().manual_seed(seed)
    wrong: list[Item] = []
    for item in items:
        listed = [answer for answer in item.perturbed_answers if answer.strip()]
        if not listed:
            others = [other.answer for other in items if other.answer != item.answer]
            if not others:
                raise VestigeError(
                    f"{method} needs false answers: items with perturbed_answers, or items whose answers differ"
                )
            listed = [others[int(torch.randint(len(others), (1,), generator=generator))]]
        wrong += [replace(item, answer=answer) for answer in listed]
    return tuple(wrong)


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
    wrong = false_answers(items, seed=training.get("seed", 0), method=spec.name)

    def loss(current: HookedModel, batch: Minibatch) -> Tensor:
        return cross_entropy(forget_nll(current, batch))

    # The retain items are among what is taught, so they do not watch over it.
    made: Intervention = learned(model, UnlearnData(forget=wrong), loss, spec, training, defaults=defaults)
    return Assistant(None, made.weights), made.spec
