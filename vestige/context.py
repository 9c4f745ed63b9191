"""Items that fit into the model: what reaches past its positions would be scored where it was never trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hooked import HookedModel, Item, UnlearnData


def within_context(model: HookedModel, data: UnlearnData, *, max_new_tokens: int) -> tuple[UnlearnData, int]:
    """Shorten items until the prompt and each of its answers, or what is generated after it, fit the positions.

    Prompts lose words at their beginning, at least one stays; an answer that is still too long loses words at its end.
    Models without a limit change nothing.

    Returns:
        The data, and how many items were shortened.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is None:
        return data, 0
    splits, shortened = {}, 0
    for split in ("forget", "retain", "holdout", "control"):
        items = getattr(data, split)
        fitted = tuple(_fitted(model, item, limit, max_new_tokens) for item in items)
        shortened += sum(before != after for before, after in zip(items, fitted, strict=True))
        splits[split] = fitted
    return UnlearnData(**splits), shortened


def _fitted(model: HookedModel, item: Item, limit: int, max_new_tokens: int) -> Item:
    answers = [a for a in (item.answer, item.paraphrased_answer, *item.perturbed_answers) if a]
    while _length(model, item.prompt, answers) > limit or _length(model, item.prompt, [""]) + max_new_tokens > limit:
        words = item.prompt.split(" ")
        if len(words) == 1:
            return _with_short_answers(model, item, limit)
        # A tenth at a time: few steps for a long prompt, little lost on a short one.
        item = replace(item, prompt=" ".join(words[max(1, len(words) // 10) :]))
    return item


def _with_short_answers(model: HookedModel, item: Item, limit: int) -> Item:
    def short(answer: str) -> str:
        words = answer.split(" ")
        while len(words) > 1 and _length(model, item.prompt, [" ".join(words)]) > limit:
            words = words[: len(words) - max(1, len(words) // 10)]
        return " ".join(words)

    return replace(
        item,
        answer=short(item.answer),
        paraphrased_answer=short(item.paraphrased_answer) if item.paraphrased_answer else None,
        perturbed_answers=tuple(short(answer) for answer in item.perturbed_answers),
    )


def _length(model: HookedModel, prompt: str, answers: Sequence[str]) -> int:
    return int(model.tokenize([prompt] * len(answers), answers=answers).ids.shape[1])
