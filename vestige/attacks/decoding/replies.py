"""Drawing replies and looking for an answer in them: how much of it one holds, what the best of several is worth."""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from statistics import fmean

from hooked import HookedModel, Item, VestigeError
from vestige.attacks.attacked import Attacked
from vestige.attacks.prompts.framing import fitted, noted
from vestige.attacks.prompts.leaks import holds
from vestige.metrics.generation import rouge_l_recall


def best_reply(
    model: HookedModel,
    items: Sequence[Item],
    prompts: Sequence[Sequence[str]],
    *,
    temperature: float,
    max_new_tokens: int,
    batch_size: int,
    seed: int,
) -> Attacked:
    """Draw one reply to each of an item's prompts, and score the best; the curve is the expected best of fewer.

    Args:
        model: Who replies.
        items: Whose answers are looked for.
        prompts: As many for every item.
        temperature: Of the draws; above 0.
        max_new_tokens: Length of a reply.
        batch_size: Rows decoded together.
        seed: Of the draws.

    Raises:
        VestigeError: An item has no answer, or a setting is out of range.
    """
    bare = next((n for n, item in enumerate(items) if item.generation_only), None)
    if bare is not None:
        raise VestigeError(f"forget[{bare}] has no answer that could be looked for")
    asked = list(dict.fromkeys(prompt for own in prompts for prompt in own))
    short, cut = fitted(model, [Item(prompt, "") for prompt in asked], room=max_new_tokens)
    shortened = {prompt: item.prompt for prompt, item in zip(asked, short, strict=True)}
    flat = [shortened[prompt] for own in prompts for prompt in own]
    texts = iter(
        model.generate(
            flat,
            do_sample=True,
            temperature=temperature,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            seed=seed,
        )
    )
    found = [[recalled(next(texts), item.answer) for _ in own] for item, own in zip(items, prompts, strict=True)]
    scores = tuple(max(values) for values in found)
    whole = f"the whole answer was written for {sum(score == 1 for score in scores)} of {len(items)} items"
    return Attacked(
        scores,
        "recall",
        curve={k: fmean(best_of(values, k) for values in found) for k in tries(len(prompts[0]))},
        budget={"queries": len(flat), "temperature": temperature, "max_new_tokens": max_new_tokens, "seed": seed},
        note=noted(whole, cut),
    )


def recalled(text: str, answer: str) -> float:
    """Return 1 if the answer stands in the text, else the ROUGE-L recall of it; 0 where that is undefined.

    The recall is undefined for answers without a word of a-z or 0-9, which count only if they stand there as they are.
    """
    if holds(text, answer):
        return 1.0
    latin = any(character.isascii() and character.isalnum() for character in answer)
    return rouge_l_recall(text, reference=answer) if latin else 0.0


def best_of(values: Sequence[float], k: int) -> float:
    """Return the expected best of k values drawn without replacement.

    For values of 0 and 1 this is the unbiased estimate of success within k tries (Chen et al. 2021, arXiv:2107.03374).

    Args:
        values: At least one.
        k: From 1 to the number of values.
    """
    n = len(values)
    return sum(value * comb(i, k - 1) for i, value in enumerate(sorted(values))) / comb(n, k)


def tries(n: int) -> tuple[int, ...]:
    """Return 1, 2, 4, ... and n."""
    powers = [1 << i for i in range(n.bit_length()) if 1 << i < n]
    return (*powers, n)
