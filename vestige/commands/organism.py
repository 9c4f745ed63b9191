"""`vestige organism`: the built-in model's questions as files, with what the other commands need to use them."""

from __future__ import annotations

import json
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from hooked import Item, VestigeError
from vestige import organism
from vestige.output import output_folder

SPLITS = ("forget", "retain", "holdout", "control")
# Under what name `load_data` reads a field of an item.
_NAMES = {"prompt": "question", "paraphrased_prompt": "paraphrased_question", "perturbed_answers": "perturbed_answer"}


def run(*, out: Path, overwrite: bool) -> dict[str, Any]:
    """Write one JSONL file per split; return where they, the checkpoints and the words of the concept are.

    Raises:
        VestigeError: The built-in checkpoints are missing, or the folder cannot be written.
    """
    try:
        models = {name: str(organism.organism_path(name)) for name in organism.CHECKPOINTS}
    except FileNotFoundError as error:
        raise VestigeError(str(error)) from error
    data = organism.organism_data()
    with output_folder(out, overwrite=overwrite) as folder:
        for split in SPLITS:
            lines = [json.dumps(_row(item)) + "\n" for item in getattr(data, split)]
            (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return {
        "models": models,
        "files": {split: str(out / f"{split}.jsonl") for split in SPLITS},
        "template": "{question}",
        "lexicon": organism.lexicon(data.concepts[0]),
    }


def as_text(made: dict[str, Any]) -> str:
    """Return commands to paste: one that makes the model forget, one that audits the result."""
    models, files = made["models"], made["files"]

    def given(*splits: str) -> list[str]:
        return [word for split in splits for word in (f"--{split}", files[split])]

    asked = [*given("forget", "retain"), "--template", made["template"]]
    unlearn = ["--model", models["full"], "--method", "npo", *asked, "--out", "npo"]
    references = ["--retrained", models["retain"], "--never", models["never"]]
    audit = ["--original", models["full"], "--unlearned", "npo", *references, *asked, *given("control", "holdout")]
    lexicon = ["--lexicon", ",".join(made["lexicon"])]
    return "\n".join(
        shlex.join(words)
        for words in (
            ["vestige", "unlearn", *unlearn],
            ["vestige", "audit", *audit, *lexicon, "--out", "report"],
        )
    )


def _row(item: Item) -> dict[str, Any]:
    """Return what is known of an item, under the names that files have."""
    values = {field.name: getattr(item, field.name) for field in fields(item)}
    return {_NAMES.get(name, name): value for name, value in values.items() if value not in (None, ())}
