"""`vestige unlearn`: fit one method and save what it would change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from hooked.fingerprint import weights_sha256
from probes import answer_probability, find_concept_vectors
from vestige.catalogue import METHODS
from vestige.context import within_context
from vestige.items import as_completion, audit_items
from vestige.methods import method, required_settings, settings, text_settings
from vestige.on_direction import fit_on_direction
from vestige.on_sae import fit_on_sae
from vestige.output import output_folder
from vestige.words import concept_words

# Tokens left free behind a prompt, as the audit leaves them for what is generated.
ROOM = 24
ASKED = 64


def fit(
    name: str,
    model: HookedModel,
    data: UnlearnData,
    *,
    lexicon: Sequence[str] | None,
    seed: int,
    pairs: Sequence[str] = (),
    top: int = 10,
    sae: Any = None,
    site: str | None = None,
    after: Intervention | None = None,
    progress: bool = True,
) -> Intervention:
    """Fit a method by name.

    Args:
        name: One of `vestige.methods.METHODS`.
        model: Left as it is.
        data: What to forget and keep.
        lexicon: Words of the concept, for methods that edit value vectors.
        seed: Passed to methods that draw.
        pairs: Further `key=value` settings.
        top: How many value vectors those methods edit.
        sae: The SAE for methods that edit latents.
        site: Where a direction is read, for methods that remove one, or where the method acts.
        after: In force while the method is fitted; what is returned is both.
        progress: Show a bar while training, if the output is a terminal.

    Raises:
        VestigeError: There is no such method or setting, or the method refuses the model or the data.
    """
    if after is not None:
        with after.applied(model) as view:
            return after + fit(
                name,
                view,
                data,
                lexicon=lexicon,
                seed=seed,
                pairs=pairs,
                top=top,
                sae=sae,
                site=site,
                progress=progress,
            )
    function = method(name)
    arguments: dict[str, Any] = {
        key: value for key, value in (("seed", seed), ("progress", progress)) if key in text_settings(function)
    }
    arguments |= settings(function, pairs)
    if site is not None and "site" in text_settings(function):
        arguments.setdefault("site", site)
    missing = [key for key in required_settings(function) if key not in arguments]
    if missing and METHODS[name].given == "data":
        said = "--site resid_post.2" if missing[0] == "site" else f"--set {missing[0]}=..."
        raise VestigeError(f"{name} has to be told its {missing[0]}; pass {said}")
    needed = METHODS[name].given
    if needed == "prompts":
        forget, retain = (tuple(as_completion(item) for item in items) for items in (data.forget, data.retain))
        data, _ = within_context(model, replace(data, forget=forget, retain=retain), max_new_tokens=ROOM)
    if needed == "sae":
        return fit_on_sae(name, function, model, sae, data, settings=arguments, seed=seed)
    if needed == "direction":
        return fit_on_direction(name, function, model, data, site=site, settings=arguments)
    if needed in ("data", "prompts"):
        fitted: Intervention = function(model, data, **arguments)
        return fitted
    words = concept_words(model, data, lexicon)
    if not words:
        raise VestigeError(f"{name} edits the concept's value vectors and needs its words; pass --lexicon 'a,b,c'")
    vectors = find_concept_vectors(model, lexicon=words, top=top, seed=seed)
    positional = (model, vectors) if name == "ablate_vectors" else (model, data, vectors)
    edited: Intervention = function(*positional, **arguments)
    return edited


def marked(intervention: Intervention, model: HookedModel) -> Intervention:
    """Return an intervention that knows which weights it was fitted on, so that an audit can tell others from them."""
    settings = {**intervention.spec.settings, "fitted_on": weights_sha256(model)}
    return replace(intervention, spec=replace(intervention.spec, settings=settings))


def check_steps(intervention: Intervention) -> None:
    """Refuse what was trained for no step, which would be saved as a method that forgets nothing.

    Raises:
        VestigeError: A method that trains took no step.
    """
    idle = [step.spec.name for step in intervention.steps if step.spec.settings.get("steps_taken") == 0]
    if idle:
        raise VestigeError(f"{idle[0]} took no step; give it some with --set epochs=5, or steps")


def check_bake(name: str, after: Intervention | None) -> None:
    """Refuse, before anything is fitted, to bake what never is made of weights.

    Raises:
        VestigeError: The method, or what it builds on, acts on logits, prompts or activations.
    """
    outside = [] if after is None else [step.spec.name for step in after.steps if step.points != ("weights",)]
    outside += [name] if {"logits", "embedding", "gate"} & {*METHODS[name].points} else []
    if outside:
        raise VestigeError(
            f"{outside[0]} is not made of weights, so there is no model to write; leave --bake out to save it as it is"
        )


@torch.no_grad()
def effect(model: HookedModel, intervention: Intervention, data: UnlearnData) -> dict[str, tuple[float, float]]:
    """Return the mean probability of the answers to forget and to keep, before and after.

    Args:
        model: The original.
        intervention: What was fitted.
        data: As it was fitted on; at most 64 items of a split are asked, cut as the audit cuts them.

    Raises:
        VestigeError: Nothing can be asked.
    """
    prepared, _ = within_context(model, audit_items(data, max_items=ASKED, seed=0), max_new_tokens=ROOM)
    splits = {name: items for name in ("forget", "retain") if (items := getattr(prepared, name))}
    before = {name: float(answer_probability(model, items).mean()) for name, items in splits.items()}
    with intervention.applied(model) as view:
        after = {name: float(answer_probability(view, items).mean()) for name, items in splits.items()}
    return {name: (before[name], after[name]) for name in splits}


def check_sae(name: str, sae: str | None, sae_id: str | None) -> None:
    """Refuse a method without the SAE that it needs, and an SAE that it does not take.

    Raises:
        VestigeError: One is missing, or one too many.
    """
    if (METHODS[name].given == "sae") != (sae is not None):
        need = "edits latents and needs an SAE; pass --sae FOLDER" if sae is None else "takes no SAE; leave --sae out"
        raise VestigeError(f"{name} {need}")
    if sae is None and sae_id is not None:
        raise VestigeError("--sae-id says which SAE of a release or folder; give that with --sae")


def check_site(name: str, site: str | None, sae: str | None) -> None:
    """Refuse a method on a direction without the site where that lies, and a site nobody reads.

    Raises:
        VestigeError: One is missing, or one too many.
    """
    on_direction = METHODS[name].given == "direction"
    if on_direction and site is None:
        raise VestigeError(
            f"{name} removes or adds a direction and has to know where it lies; pass --site resid_post.5"
        )
    if site is not None and not on_direction and sae is None and "site" not in text_settings(method(name)):
        raise VestigeError(f"{name} takes no --site; leave it out")


def run(
    intervention: Intervention, model: HookedModel, data: UnlearnData, *, out: Path, overwrite: bool, bake: bool
) -> dict[str, Any]:
    """Write a fitted method, as an intervention or (with `bake`) as a Hugging Face folder, and describe it."""
    with output_folder(out, overwrite=overwrite) as folder:
        if bake:
            intervention.bake(model, folder)
        else:
            intervention.save(folder)
    changed = {name for step in intervention.steps if step.weights for name in step.weights.deltas}
    return {
        "method": intervention.spec.name,
        "intent": intervention.spec.intent,
        "acts_through": list(intervention.points),
        "changed_parameters": len(changed),
        "probability": effect(model, intervention, data),
        "settings": dict(intervention.spec.settings),
        "source": intervention.spec.source,
        "out": str(out),
        "kind": "model" if bake else "intervention",
    }
