"""Attacks alone: a model, its unlearned versions and models that never knew, each asked in every way of a suite."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hooked import HookedModel, UnlearnData, VestigeError
from hooked.fingerprint import weights_sha256
from hooked.harvest.ray_connection import RayOptions, imported
from probes import find_concept_vectors
from vestige.at_least import check_at_least
from vestige.attacks.attacked import Target
from vestige.attacks.catalogue import chosen
from vestige.attacks.cost import Cost, cost_of
from vestige.attacks.notes import notes_of
from vestige.attacks.on_ray import attacked_on_ray
from vestige.attacks.run import Outcome, compared, run_attacks
from vestige.context import within_context
from vestige.items import audit_items
from vestige.progress import steps
from vestige.provenance import provenance
from vestige.result import AuditReport
from vestige.subjects import Source, blamed, opened, sources_of
from vestige.words import concept_words

ENGINES = ("local", "ray")
# How many value vectors of the original an attacker may put back.
VECTORS = 10


def attack(
    original: HookedModel,
    *,
    unlearned: Sequence[Source] = (),
    data: UnlearnData,
    retrained: Source | None = None,
    never: Source | None = None,
    suite: str | None = "quick",
    names: Sequence[str] = (),
    lexicon: Sequence[str] | None = None,
    seed: int = 0,
    batch_size: int = 32,
    max_items: int = 200,
    engine: str = "local",
    workers: int = 1,
    num_gpus: float = 0,
    address: str | None = None,
    before: Callable[[Cost], object] = lambda cost: None,
    progress: bool = True,
) -> AuditReport:
    """Attack every subject in the same ways and compare what is recovered with a model that never knew.

    Args:
        original: The model before unlearning; as it was when this returns or raises.
        unlearned: Interventions, loaded models, or folders with either.
        data: Forget items are asked; retain items are what attackers prepare on.
        retrained: A model trained without the forget set.
        never: A model that was never taught the facts: the control. The retrained model stands in where it is missing.
        suite: `quick`, `standard` or `full`; None runs the named attacks alone.
        names: Further attacks, by name.
        lexicon: Words of the concept; by default words that only the forget answers have.
        seed: Of everything that draws.
        batch_size: Rows per forward pass.
        max_items: Most items per split; more are sampled.
        engine: `local`, this process, or `ray`, where every attack on every subject is a task of its own; the results
            are the same.
        workers: Tasks at a time, each with a copy of its subject; only for Ray.
        num_gpus: GPUs of each task; only for Ray.
        address: Of a running cluster; only for Ray.
        before: Called with the estimated cost before the first attack.
        progress: Show a progress bar.

    Returns:
        A report that holds attacks and no checks; `report.save(folder)` writes it.

    Raises:
        VestigeError: There is no such suite, attack or engine, a setting is out of range, one of Ray is given without
            Ray, a subject cannot be opened or sent to Ray, Ray is not there, or an item has no answer.
    """
    if engine not in ENGINES:
        raise VestigeError(f"engine is one of {', '.join(ENGINES)}, got {engine!r}")
    check_at_least(1, batch_size=batch_size, max_items=max_items)
    check_at_least(0, seed=seed)
    options = RayOptions(workers=workers, num_gpus=num_gpus, address=address)
    if engine == "ray":
        imported()
    elif options != RayOptions(workers=1):
        raise VestigeError("workers, num_gpus and address are settings of Ray; choose engine ray, or leave them out")
    attacks = chosen(suite, names)
    if not attacks:
        raise VestigeError("no attack was chosen; give a suite (quick, standard, full) or names")
    sources = sources_of(original, unlearned, retrained, never)
    # Attacks lengthen prompts and look after the limit themselves.
    prepared, shortened = within_context(original, audit_items(data, max_items=max_items, seed=seed), max_new_tokens=1)
    before(cost_of(original, prepared, attacks, subjects=len(sources), batch_size=batch_size))
    words = concept_words(original, data, lexicon)
    about = find_concept_vectors(original, lexicon=words, top=VECTORS, seed=seed) if words else ()
    notes = notes_of(original, prepared, vectors=[(v.layer, v.neuron) for v in about], batch_size=batch_size)
    found: dict[str, Mapping[str, Outcome]] = {}
    hashes: dict[str, str | None] = {}
    if engine == "ray":
        found, hashes = attacked_on_ray(
            original,
            sources,
            attacks,
            options,
            data=prepared,
            notes=notes,
            batch_size=batch_size,
            seed=seed,
            progress=progress,
        )
    else:
        for info, source in steps(sources, "attacking", show=progress, label=lambda pair: pair[0].name):
            with blamed(info, source, original=original), opened(info, source, original=original) as subject:
                target = Target(info.name, info.kind, subject.model, subject.raw, notes)
                found[info.name] = run_attacks(target, prepared, attacks, batch_size=batch_size, seed=seed)
                hashes[info.name] = weights_sha256(subject.raw)
    subjects = tuple(info for info, _ in sources)
    return AuditReport(
        provenance=provenance(
            original,
            prepared,
            sources,
            hashes=hashes,
            words=words,
            settings={
                "seed": seed,
                "batch_size": batch_size,
                "max_items": max_items,
                "items_shortened": shortened,
                "suite": suite,
                "attacks": [one.name for one in attacks],
            },
        ),
        subjects=subjects,
        results=(),
        attacks=compared(subjects, found, attacks, seed=seed),
    )
