"""The audit: read every subject once, run every check, say what was found."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from hooked.fingerprint import weights_sha256
from probes import ConceptVector, find_concept_vectors
from probes.vocabulary import default_k
from vestige.attacks.attacked import Target
from vestige.attacks.catalogue import chosen
from vestige.attacks.cost import Cost, cost_of
from vestige.attacks.notes import notes_of
from vestige.attacks.run import Outcome, compared, run_attacks
from vestige.checks import CHECKS
from vestige.context import within_context
from vestige.edited import edited_latents
from vestige.evidence import Evidence
from vestige.intrinsic.cells import CellFalls, Tracing
from vestige.intrinsic.latents import ConceptLatents, Survival
from vestige.intrinsic.patched import Patched, Patching
from vestige.intrinsic.spans import answer_spans
from vestige.intrinsic.weights import Moved, moved_between, moved_by
from vestige.items import audit_items
from vestige.located import located
from vestige.metrics.weights import cosine, top_tokens
from vestige.progress import steps
from vestige.provenance import provenance
from vestige.reading import Reading, read
from vestige.residual import residual_knowledge
from vestige.result import AuditReport, ConceptVectorRow, GenerationRow, Result, SubjectInfo
from vestige.subjects import Source, blamed, opened, sources_of
from vestige.verdict import verdicts
from vestige.words import concept_words, null_draws

SHOWN_TOKENS = 12
SHOWN_FORGET, SHOWN_RETAIN = 6, 3


@dataclass
class _Found:
    """What was read of the subjects, by their names."""

    readings: dict[str, Reading] = field(default_factory=dict)
    hashes: dict[str, str | None] = field(default_factory=dict)
    attacked: dict[str, dict[str, Outcome]] = field(default_factory=dict)
    patched: dict[str, Patched] = field(default_factory=dict)
    moved: dict[str, tuple[Moved, ...] | str] = field(default_factory=dict)
    traced: dict[str, CellFalls] = field(default_factory=dict)
    surviving: dict[str, Survival | str] = field(default_factory=dict)


def audit(
    original: HookedModel,
    *,
    unlearned: Sequence[Source] = (),
    data: UnlearnData,
    retrained: Source | None = None,
    never: Source | None = None,
    lexicon: Sequence[str] | None = None,
    top_vectors: int = 10,
    seed: int = 0,
    batch_size: int = 32,
    max_items: int = 200,
    max_new_tokens: int = 24,
    suite: str | None = None,
    attacks: Sequence[str] = (),
    before_attacks: Callable[[Cost], object] = lambda cost: None,
    where: bool = False,
    sae: Any = None,
    progress: bool = True,
) -> AuditReport:
    """Compare a model with its unlearned versions and with models that never learnt the facts.

    Args:
        original: The model before unlearning; as it was when this returns or raises.
        unlearned: Interventions, loaded models, or folders with either, in any mix.
        data: Forget items, retain items, and optionally control items that test other abilities.
        retrained: A model trained without the forget set; forget quality needs it.
        never: A model that was never taught the facts; the control of every check. The retrained model stands in where
            it is missing.
        lexicon: Words of the concept, for the search of concept vectors; by default words that only the forget answers
            have.
        top_vectors: How many concept vectors are followed; none at 0.
        seed: Of item sampling, resampling and permutations.
        batch_size: Rows per forward pass.
        max_items: Most items per split; more are sampled.
        max_new_tokens: Length of the continuations.
        suite: Attacks to run on every subject: `quick`, `standard` or `full`; none when not given.
        attacks: Further attacks, by name; `vestige attacks` lists them.
        before_attacks: Called with what the audit will cost before anything is read, where it attacks or maps.
        where: Also map by layer, position and component where the answers are; fifteen passes per layer over at most 16
            items for each subject.
        sae: A `sae_lens.SAE` of the original or a `sae.Coder`: also follow the latents that mark the forget prompts.
        progress: Show a progress bar.

    Returns:
        The report; `report.save(folder)` writes it. Subjects are named `original`, after their method or folder, and
        `retain` and `never`.

    Raises:
        VestigeError: A subject cannot be opened or read (the message names it), a setting is out of range, or there is
            nothing to score.
    """
    settings = {"batch_size": batch_size, "max_items": max_items, "max_new_tokens": max_new_tokens}
    _check_at_least(1, **settings)
    _check_at_least(0, seed=seed, top_vectors=top_vectors)
    sources = sources_of(original, unlearned, retrained, never)
    prepared, shortened = within_context(
        original, audit_items(data, max_items=max_items, seed=seed), max_new_tokens=max_new_tokens
    )
    words = concept_words(original, data, lexicon)
    vectors: tuple[ConceptVector, ...] = ()
    if words and top_vectors:
        vectors = find_concept_vectors(
            original, lexicon=words, top=top_vectors, null_draws=null_draws(original), seed=seed
        )
    decoder = original.decoder.frozen()
    rows = chosen(suite, attacks)
    notes = None
    if rows:
        followed = [(v.layer, v.neuron) for v in vectors]
        notes = notes_of(original, prepared, vectors=followed, batch_size=batch_size)
    if rows or where:
        before_attacks(
            cost_of(
                original,
                prepared,
                rows,
                subjects=len(sources),
                batch_size=batch_size,
                checks=True,
                where=where,
            )
        )
    patching = Patching(original, answer_spans(original, prepared.forget), decoder=decoder, batch_size=batch_size)
    marking = ConceptLatents(original, sae, prepared, seed=seed) if sae is not None else None
    tracing = Tracing(original, prepared.forget, batch_size=batch_size) if where else None
    found = _Found()
    for info, source in steps(sources, "reading subjects", show=progress, label=lambda pair: pair[0].name):
        with blamed(info, source, original=original):
            with opened(info, source, original=original) as subject:
                found.readings[info.name] = read(
                    subject,
                    prepared,
                    decoder=decoder,
                    vectors=[(v.layer, v.neuron) for v in vectors],
                    batch_size=batch_size,
                    max_new_tokens=max_new_tokens,
                    seed=seed,
                )
                found.hashes[info.name] = weights_sha256(subject.raw)
                if notes is not None:
                    target = Target(info.name, info.kind, subject.model, subject.raw, notes)
                    found.attacked[info.name] = run_attacks(target, prepared, rows, batch_size=batch_size, seed=seed)
                states = patching.read(subject)
                cells = tracing.read(subject) if tracing else None
                if marking is not None:
                    found.surviving[info.name] = marking.read(subject)
                if not isinstance(source, Intervention):
                    found.moved[info.name] = moved_between(original, subject.raw)
            # Only now is the original whole again.
            if isinstance(source, Intervention):
                found.moved[info.name] = moved_by(source, original)
            if states is not None:
                found.patched[info.name] = patching.patched(states)
            if tracing and cells is not None:
                found.traced[info.name] = tracing.falls(cells)
    _warn_of_other_weights(sources, original, found.hashes)
    subjects = tuple(info for info, _ in sources)
    evidence = Evidence(
        prepared, subjects, found.readings, decoder, vectors, seed, found.patched, found.moved, found.surviving
    )
    results: list[Result] = []
    for check in steps(CHECKS, "running checks", show=progress, label=lambda c: c.__name__):
        results += check(evidence)
    report = AuditReport(
        provenance=provenance(
            original,
            prepared,
            sources,
            hashes=found.hashes,
            words=words,
            settings={
                "seed": seed,
                **settings,
                "items_shortened": shortened,
                "attacks": [row.name for row in rows],
                **({} if marking is None else {"sae": marking.described()}),
            },
        ),
        subjects=subjects,
        results=tuple(results),
        concept_vectors=_vector_rows(evidence, original),
        generations=_generation_rows(evidence),
        latents=edited_latents(original, sources, prepared),
        attacks=compared(subjects, found.attacked, rows, seed=seed),
        where=located(subjects, found.traced, seed=seed) if where else (),
    )
    residual = residual_knowledge(report)
    return replace(report, residual=residual, verdicts=verdicts(subjects, results, residual))


def _warn_of_other_weights(
    sources: Sequence[tuple[SubjectInfo, Source]], original: HookedModel, hashes: dict[str, str | None]
) -> None:
    for info, source in sources:
        fitted = source.spec.settings.get("fitted_on") if isinstance(source, Intervention) else None
        if fitted is not None and fitted != hashes["original"]:
            warnings.warn(
                f"'{info.name}' was fitted on other weights (or another dtype) than those of '{original.name}', "
                "so what it does here is not what it was made to do",
                UserWarning,
                stacklevel=3,
            )


def _check_at_least(least: int, **settings: int) -> None:
    for name, value in settings.items():
        if value < least:
            raise VestigeError(f"{name} is at least {least}, got {value}")


def _vector_rows(evidence: Evidence, original: HookedModel) -> tuple[ConceptVectorRow, ...]:
    unembedding = evidence.decoder.W_U.float().cpu().numpy()
    shown = min(SHOWN_TOKENS, default_k(unembedding.shape[1]))

    def words(row: np.ndarray[Any, Any]) -> tuple[str, ...]:
        return tuple(original.to_single_str_token(int(token)) for token in top_tokens(row @ unembedding, k=shown))

    rows = []
    for vector in evidence.vectors:
        at = (vector.layer, vector.neuron)
        before = evidence.original.value_rows[at]
        rows_after = {s.name: evidence.readings[s.name].value_rows.get(at) for s in evidence.subjects[1:]}
        after = {name: row for name, row in rows_after.items() if row is not None}
        rows.append(
            ConceptVectorRow(
                layer=vector.layer,
                neuron=vector.neuron,
                score=vector.score,
                p_value=vector.p_value,
                p_adjusted=vector.p_adjusted,
                before=words(before),
                after={name: words(row) for name, row in after.items()},
                cosine={name: cosine(before, row) for name, row in after.items()},
            )
        )
    return tuple(rows)


def _generation_rows(evidence: Evidence) -> tuple[GenerationRow, ...]:
    rows = []
    for n, item in enumerate(evidence.data.forget[:SHOWN_FORGET]):
        outputs = {s.name: evidence.readings[s.name].forget.texts[n] for s in evidence.subjects}
        rows.append(GenerationRow("forget", item.prompt, item.answer, outputs))
    for n, item in enumerate(evidence.data.retain[:SHOWN_RETAIN]):
        texts = {s.name: evidence.readings[s.name].retain for s in evidence.subjects}
        rows.append(
            GenerationRow(
                "retain",
                item.prompt,
                item.answer,
                {name: split.texts[n] for name, split in texts.items() if split is not None},
            )
        )
    return tuple(rows)
