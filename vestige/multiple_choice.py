"""TruthfulQA's three scores of a model on items that have wrong answers beside the right one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import torch

from hooked import HookedModel, Item, VestigeError
from interventions import answer_nll
from vestige.metrics.multiple_choice import mc1, mc2, mc3


@dataclass(frozen=True)
class MultipleChoice:
    """The scores, item by item; each field's mean is the published number.

    Args:
        mc1: Whether the answer is likelier than every wrong one.
        mc2: Share of the right answers in the probability of all.
        mc3: Share of the right answers that are likelier than every wrong one.
        floor: What chance scores on `mc1`: the mean of one over the number of choices.
    """

    mc1: tuple[float, ...]
    mc2: tuple[float, ...]
    mc3: tuple[float, ...]
    floor: float

    @property
    def means(self) -> dict[str, float]:
        """The three published numbers."""
        return {"mc1": fmean(self.mc1), "mc2": fmean(self.mc2), "mc3": fmean(self.mc3)}


def multiple_choice(model: HookedModel, items: Sequence[Item], *, batch_size: int = 64) -> MultipleChoice:
    """Score answers against wrong ones by the sum of their log-probabilities after the prompt.

    Args:
        model: A model or a view; interventions are in force, so logit combinations are scored as they decode.
        items: With `perturbed_answers`, which are the wrong ones. A `paraphrased_answer` is a second right one.
        batch_size: Texts per forward pass.

    Raises:
        VestigeError: There is no item, or one lacks a right or a wrong answer; the message says which.

    Source:
        Lin, Hilton, Evans, *TruthfulQA*, arXiv:2109.07958; MC3 after Chuang et al., arXiv:2309.03883.
    """
    if not items:
        raise VestigeError("multiple choice needs at least one item")
    bare = next((i for i, item in enumerate(items) if not (item.answer and item.perturbed_answers)), None)
    if bare is not None:
        lacks = "answer" if not items[bare].answer else "wrong answer (perturbed_answers; column perturbed_answer)"
        raise VestigeError(f"item {bare} ({items[bare].prompt[:40]!r}) has no {lacks} to choose from")
    right = [[text for text in (item.answer, item.paraphrased_answer) if text] for item in items]
    texts = [
        (item.prompt, text)
        for item, true in zip(items, right, strict=True)
        for text in (*true, *item.perturbed_answers)
    ]
    scores = iter(_scores(model, texts, batch_size))
    found: list[tuple[float, float, float]] = []
    for item, true in zip(items, right, strict=True):
        good, bad = [next(scores) for _ in true], [next(scores) for _ in item.perturbed_answers]
        found.append((mc1(good[0], bad), mc2(good, bad), mc3(good, bad)))
    first, second, third = zip(*found, strict=True)
    floor = fmean(1 / (1 + len(item.perturbed_answers)) for item in items)
    return MultipleChoice(first, second, third, floor)


@torch.no_grad()
def _scores(model: HookedModel, texts: Sequence[tuple[str, str]], batch_size: int) -> list[float]:
    found: list[float] = []
    for start in range(0, len(texts), batch_size):
        prompts, answers = zip(*texts[start : start + batch_size], strict=True)
        batch = model.tokenize(list(prompts), answers=list(answers), padding_side="right")
        found += (-answer_nll(model.logits(batch), batch.ids, batch.answer).total.double()).tolist()
    return found
