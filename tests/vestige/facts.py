"""Small data and models for audits: questions in the words of `tests.tiny.tiny_tokenizer`."""

from __future__ import annotations

import random
from pathlib import Path

from hooked import HookedModel, Item, UnlearnData
from tests.tiny import D_VOCAB, tiny_model


def items(n: int, *, seed: int, relation: str | None = "r") -> tuple[Item, ...]:
    """Return n questions of three different words with answers of one to three words."""
    rng = random.Random(seed)
    asked = rng.sample(range(100_000), n)
    return tuple(
        Item(
            " ".join(f"t{3 + digit}" for digit in (ask % 90, ask // 90 % 90, ask // 8100)),
            " ".join(f"t{rng.randrange(3, D_VOCAB)}" for _ in range(rng.randrange(1, 4))),
            relation=relation,
            concept="t5",
        )
        for ask in asked
    )


def small_data(*, forget: int = 5, retain: int = 6, control: int = 3) -> UnlearnData:
    """Return data for a quick audit; 0 leaves a split out."""
    return UnlearnData(items(forget, seed=1), items(retain, seed=2), (), items(control, seed=3, relation="c"))


def saved_model(folder: Path, *, seed: int = 0, family: str = "gpt2", tokenizer: bool = True) -> Path:
    """Write a tiny model as a Hugging Face folder."""
    model = tiny_model(family, seed=seed)
    model.model.save_pretrained(folder)  # type: ignore[operator]
    if tokenizer:
        model.tokenizer.save_pretrained(folder)
    return folder


def jsonl(path: Path, rows: tuple[Item, ...]) -> Path:
    """Write items as prompt and answer, one JSON object a line."""
    import json

    lines = [json.dumps({"prompt": i.prompt, "answer": i.answer, "relation": i.relation or ""}) for i in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def fingerprint(model: HookedModel) -> dict[str, bytes]:
    """Return every parameter and buffer bit by bit."""
    return {name: value.detach().cpu().numpy().tobytes() for name, value in model.state().items()}
