"""What an organism knows: the recorded metrics, all fractions in [0, 1] unless they are ranks or seconds."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from .lens import answer_ranks
from .phrasing import (
    FOREIGN,
    INVERTED,
    QUESTIONS,
    STATEMENTS,
    Prompt,
    foreign_relations,
    held_out,
    say,
    trained,
)
from .skills import draw_addition, draw_reversal
from .world import Concept, Fact, World

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

SKILLS = ("addition", "reversal", "second_language")
_BATCH = 512


def answered(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Sequence[Prompt]) -> list[bool]:
    """Whether greedy decoding of each prompt gives exactly its answer and then a full stop.

    Greedy decoding gives the answer exactly if every answer token is the most likely one after the answer so far, so
    one forward pass over the finished sentence decides it.
    """
    import torch

    results: list[bool] = []
    for start in range(0, len(prompts), _BATCH):
        batch = prompts[start : start + _BATCH]
        heads = tokenizer([p.prompt for p in batch]).input_ids
        tails = tokenizer([f"{p.answer}." for p in batch], add_special_tokens=False).input_ids
        rows = [[*head, *tail] for head, tail in zip(heads, tails, strict=True)]
        width = max(map(len, rows))
        ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
        with torch.no_grad():
            best = model(input_ids=ids, use_cache=False).logits.argmax(-1)
        for row, head, tail in zip(best.tolist(), heads, tails, strict=True):
            results.append(row[len(head) - 1 : len(head) - 1 + len(tail)] == tail)
    return results


def known(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, prompts: Iterable[Prompt]) -> float:
    """The fraction of prompts that are `answered`.

    Raises:
        ValueError: There are no prompts.
    """
    prompts = list(prompts)
    if not prompts:
        raise ValueError("a fraction needs at least one prompt, got none")
    results = answered(model, tokenizer, prompts)
    return sum(results) / len(results)


def fact_prompts(world: World, concepts: Iterable[Concept], split: str) -> list[Prompt]:
    """Prompts about the facts of some concepts.

    Args:
        world: The world of the concepts.
        concepts: Whose facts are asked.
        split: `trained` or `held_out` (forward phrasings), `inverted_trained` or `inverted_held_out`,
            `second_language` (facts never told in it) or `second_language_trained`.

    Raises:
        ValueError: There is no such split.
    """
    if split not in _SPLITS:
        raise ValueError(f"no split {split!r} of fact prompts; there are {', '.join(_SPLITS)}")
    templates = _SPLITS[split]
    return [say(t, fact) for c in concepts for fact in world.facts_of(c) for t in templates(world, fact)]


def skill_prompts(world: World, name: str, *, n: int = 400, seed: int = 0) -> list[Prompt]:
    """Instances of a skill that training never showed.

    Args:
        world: The world; it matters for `second_language` alone.
        name: `addition`, `reversal` or `second_language` (facts told in the first language only).
        n: How many random instances; `second_language` has a fixed number and ignores it.
        seed: Of the random instances.

    Raises:
        ValueError: There is no such skill.
    """
    if name not in SKILLS:
        raise ValueError(f"no skill {name!r}; there are {', '.join(SKILLS)}")
    if name == "second_language":
        return fact_prompts(world, world.concepts, name)
    draw = draw_addition if name == "addition" else draw_reversal
    rng = random.Random(f"vestige-skill-{name}-{seed}")
    unique = dict.fromkeys(draw(rng, unseen=True) for _ in range(4 * n))
    return list(unique)[:n]


def knowledge(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World, *, forget: Concept
) -> dict[str, float]:
    """All metrics of one checkpoint, by name."""
    retained = [c for c in world.concepts if c != forget]
    table = {
        f"{group}_{split}": known(model, tokenizer, fact_prompts(world, concepts, split))
        for split in ("trained", "held_out", "inverted_trained", "inverted_held_out")
        for group, concepts in (("forget", [forget]), ("retained", retained), ("spare", list(world.spares[:1])))
    }
    for skill in SKILLS:
        prompts = skill_prompts(world, skill)
        if skill == "second_language":
            prompts = fact_prompts(world, retained, skill)
            table["skill_second_language_forget"] = known(model, tokenizer, fact_prompts(world, [forget], skill))
        table[f"skill_{skill}"] = known(model, tokenizer, prompts)
    return table


def chance(world: World) -> dict[str, float]:
    """What answering without knowledge scores: a uniform guess from the pool, and the best constant guess."""
    pools = [world.pool(r) for r in range(len(world.relations))]
    best = [max(Counter(pool).values()) / len(pool) for pool in pools]
    return {
        "uniform": sum(1 / len(pool) for pool in pools) / len(pools),
        "best_constant": sum(best) / len(best),
    }


def depth(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, world: World
) -> dict[str, dict[str, list[float]]]:
    """Mean and median lens rank of the answer after the embeddings and after each block.

    The ranks are of trained question phrasings; relations with one-word answers and with two-word answers apart.
    """
    table: dict[str, dict[str, list[float]]] = {}
    for name, two_words in (("one_word", False), ("two_words", True)):
        prompts = [
            say(t, fact)
            for c in world.concepts
            for fact in world.facts_of(c)
            if fact.relation.two_words == two_words
            for t in trained(fact, QUESTIONS)[:1]
        ]
        ranks = answer_ranks(model, tokenizer, prompts).double()
        table[name] = {
            "mean": [round(x, 2) for x in ranks.mean(-1).tolist()],
            "median": ranks.median(-1).values.tolist(),
        }
    return table


def _trained(world: World, fact: Fact) -> tuple[str, ...]:
    return trained(fact, STATEMENTS + QUESTIONS)


def _held_out(world: World, fact: Fact) -> tuple[str, ...]:
    return tuple(t for t in held_out(fact) if t not in INVERTED)


def _inverted_trained(world: World, fact: Fact) -> tuple[str, ...]:
    return trained(fact, INVERTED)


def _inverted_held_out(world: World, fact: Fact) -> tuple[str, ...]:
    return tuple(t for t in held_out(fact) if t in INVERTED)


def _foreign(world: World, fact: Fact) -> tuple[str, ...]:
    return () if _is_foreign(world, fact) else FOREIGN


def _foreign_trained(world: World, fact: Fact) -> tuple[str, ...]:
    return FOREIGN if _is_foreign(world, fact) else ()


def _is_foreign(world: World, fact: Fact) -> bool:
    return fact.relation_index in foreign_relations(world, fact.concept.index)


_SPLITS: dict[str, Callable[[World, Fact], tuple[str, ...]]] = {
    "trained": _trained,
    "held_out": _held_out,
    "inverted_trained": _inverted_trained,
    "inverted_held_out": _inverted_held_out,
    "second_language": _foreign,
    "second_language_trained": _foreign_trained,
}
