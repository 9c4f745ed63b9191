"""One run of a method on the organism: fitted, then asked. What a worker does, in this process or on a Ray cluster."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import torch

from hooked import HookedModel, Intervention, Item, UnlearnData, VestigeError
from hooked.fingerprint import weights_sha256
from probes import answer_probability
from vestige import audit, organism
from vestige.catalogue import METHODS
from vestige.commands.unlearn import fit
from vestige.methods import method, text_settings
from vestige.multiple_choice import multiple_choice
from vestige.report import to_json

SAE_LAYER = 2
# Where methods on a direction read it: behind the block in which the organism's recall is under way.
SITE = "resid_post.2"
ASKED = 64
TOP = 10

Settings = tuple[str, ...]


@dataclass(frozen=True)
class Run:
    """A method with settings, on a concept, with a seed."""

    method: str
    settings: Settings
    concept: str
    seed: int

    @property
    def name(self) -> str:
        """A file name: the same run has the same one."""
        return f"{self.method}-{self.concept}-{self.seed}-{_digest(self.settings)}"


def _digest(settings: Settings) -> str:
    import hashlib

    return hashlib.sha256("\n".join(settings).encode()).hexdigest()[:10]


@cache
def original() -> HookedModel:
    """The organism that saw everything."""
    torch.set_num_threads(1)
    return HookedModel.from_pretrained(str(organism.organism_path("full")), dtype="float32")


@cache
def given(concept: str) -> UnlearnData:
    """What a method is given: each fact in two trained phrasings, and every other fact of the other concepts."""
    data = organism.organism_data(concept)
    phrasings: dict[tuple[str, str], list[str]] = {}
    for row in organism.forget_rows(concept, per_fact=2):
        phrasings.setdefault((row["subject"], row["answer"]), []).append(row["question"])
    forget = tuple(
        replace(item, paraphrased_prompt=next(p for p in phrasings[str(item.subject), item.answer] if p != item.prompt))
        for item in data.forget
    )
    return replace(data, forget=forget, retain=data.retain[::2])


@cache
def asked(concept: str) -> UnlearnData:
    """What is asked afterwards: the facts also in a phrasing that was held out, and the facts that were not given."""
    data = organism.organism_data(concept)
    return replace(data, retain=data.retain[1::2])


def is_seeded(name: str) -> bool:
    """Whether anything about a method is drawn; the others are run once."""
    return "seed" in text_settings(method(name))


@cache
def _sae() -> Any:
    from sae import load_sae

    return load_sae(str(organism.organism_sae(SAE_LAYER)))


def fitted(run: Run) -> Intervention:
    """Fit the method, silently."""
    sae = _sae() if METHODS[run.method].given == "sae" else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return fit(
            run.method,
            original(),
            given(run.concept),
            lexicon=organism.lexicon(run.concept),
            seed=run.seed,
            pairs=run.settings,
            top=TOP,
            sae=sae,
            site=SITE if METHODS[run.method].given == "direction" else None,
            progress=False,
        )


def warm_up() -> None:
    """Load what only has to be loaded once, which is no method's own, and keep to one thread.

    On one thread the processor time is what a method costs, whatever else the machine does.
    """
    torch.set_num_threads(1)
    original().logits("warm up")
    for package in ("peft", "sklearn.linear_model", "sae_lens", "interventions.training", "sae.unlearn"):
        import_module(package)


def scored(run: Run) -> dict[str, Any]:
    """Fit and score quickly, to choose settings: how likely the answers to forget and those to keep still are.

    A run that the method refuses, or that diverges, has no score.
    """
    warm_up()
    started = time.process_time()
    before = _probabilities(original(), run.concept)
    try:
        made = fitted(run)
        with torch.no_grad(), made.applied(original()) as view:
            after = _probabilities(view, run.concept)
        error = None
    except VestigeError as refused:
        after, error = before, str(refused)
    left = 0.5 * (after["forget"] / before["forget"] + after["paraphrase"] / before["paraphrase"])
    kept = after["retain"] / before["retain"]
    score = kept - left if error is None else None
    found = {"score": score, "kept": kept, "left": left, "error": error, "seconds": time.process_time() - started}
    return {"run": _described(run), **found, **{f"{name}_probability": value for name, value in after.items()}}


def _probabilities(model: HookedModel, concept: str) -> dict[str, float]:
    data = asked(concept)
    paraphrased = tuple(replace(i, prompt=i.paraphrased_prompt) for i in data.forget if i.paraphrased_prompt)
    groups = {"forget": data.forget, "paraphrase": paraphrased, "retain": _sample(data.retain)}
    with torch.no_grad():
        return {name: float(answer_probability(model, items).mean()) for name, items in groups.items()}


def _sample(items: Sequence[Item]) -> list[Item]:
    chosen = np.random.default_rng(0).choice(len(items), size=min(ASKED, len(items)), replace=False)
    return [items[i] for i in sorted(chosen)]


def measured(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Fit several methods on one concept with one seed, and audit them together, beside the controls there are."""
    warm_up()
    concept, seed = runs[0].concept, runs[0].seed
    made, seconds, errors = [], [], {}
    for run in runs:
        started = time.process_time()
        try:
            made.append((run, fitted(run)))
            seconds.append(time.process_time() - started)
        except VestigeError as error:
            errors[run] = str(error)
    # Only the default concept has checkpoints that never saw it.
    untaught = concept == organism.organism_data().concepts[0]
    report = to_json(
        audit(
            original(),
            unlearned=[one for _, one in made],
            data=asked(concept),
            retrained=organism.organism_path("retain") if untaught else None,
            never=organism.organism_path("never") if untaught else None,
            lexicon=organism.lexicon(concept),
            seed=seed,
            batch_size=64,
            max_items=ASKED,
            progress=False,
        )
    )
    names = [s["name"] for s in report["subjects"] if s["kind"] == "unlearned"]
    records = [
        {
            "run": _described(run),
            "seconds": taken,
            "megabytes": _size(one),
            "intent": one.spec.intent,
            "points": list(one.points),
            "summary": {k: v for k, v in one.spec.settings.items() if k in _KEPT},
            "inside": _inside(one, concept),
            "choice": _choice(one, concept),
            "results": _results(report, name),
            "error": None,
        }
        for (run, one), taken, name in zip(made, seconds, names, strict=True)
    ]
    for reference in ("original", "retain", "never"):
        if any(s["name"] == reference for s in report["subjects"]):
            described = {"method": reference, "settings": [], "concept": concept, "seed": seed}
            choice = _choice(None, concept) if reference == "original" else None
            records.append({"run": described, "results": _results(report, reference), "choice": choice, "error": None})
    return records + [{"run": _described(run), "error": error} for run, error in errors.items()]


_KEPT = (
    "steps_taken",
    "first_loss",
    "last_loss",
    "trained_numbers",
    "stopped",
    "strength",
    "heldout_true_positive_rate",
    "heldout_false_positive_rate",
)


def _results(report: Mapping[str, Any], subject: str) -> dict[str, Any]:
    keep = ("estimate", "low", "high", "n", "floor", "control", "per_item", "per_layer", "note")
    return {
        row["check"]: {key: row[key] for key in keep if row.get(key) not in (None, [], "")}
        for row in report["results"]
        if row["subject"] == subject
    }


@cache
def _untouched() -> str | None:
    """Hash of weights that nothing was ever applied to."""
    return weights_sha256(HookedModel.from_pretrained(str(organism.organism_path("full")), dtype="float32"))


@torch.no_grad()
def _inside(made: Intervention, concept: str) -> dict[str, Any]:
    """What the weights alone came to, and whether text that has nothing to do with the concept is touched at all."""
    model, data = original(), asked(concept)
    deltas = {name: delta for step in made.steps if step.weights for name, delta in step.weights.deltas.items()}
    prompts = [item.prompt for item in _sample(data.retain)]
    before = model.logits(prompts)
    with made.applied(model) as view:
        after, raw = view.logits(prompts), weights_sha256(view.raw)
        touched = [i for i in range(len(prompts)) if not torch.equal(before[i], after[i])]
    return {
        "changed_parameters": sorted(deltas),
        "raw_is_original": raw == _untouched(),
        "retain_prompts_touched": len(touched) / len(prompts),
    }


@torch.no_grad()
def _choice(made: Intervention | None, concept: str) -> dict[str, float]:
    """TruthfulQA's three scores on the facts to keep, each against its perturbed answers."""
    items = [item for item in _sample(asked(concept).retain) if item.perturbed_answers]
    model = original()
    if made is None:
        return multiple_choice(model, items).means
    with made.applied(model) as view:
        return multiple_choice(view, items).means


def _size(made: Intervention) -> float:
    """Megabytes that the intervention itself holds."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        made.save(Path(folder) / "made")
        return sum(file.stat().st_size for file in (Path(folder) / "made").iterdir()) / 1e6


def _described(run: Run) -> dict[str, Any]:
    return {"method": run.method, "settings": list(run.settings), "concept": run.concept, "seed": run.seed}
