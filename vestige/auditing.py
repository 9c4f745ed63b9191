"""The audit: read every subject once, run every check, say what was found."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hooked import HookedModel, Intervention, UnlearnData
from probes import ConceptVector, find_concept_vectors
from probes.vocabulary import default_k
from vestige.at_least import check_at_least
from vestige.attacks.catalogue import chosen
from vestige.attacks.cost import Cost, cost_of
from vestige.attacks.notes import notes_of
from vestige.attacks.run import compared
from vestige.checks import CHECKS
from vestige.context import within_context
from vestige.edited import edited_latents
from vestige.evidence import Evidence
from vestige.instruments import Instruments
from vestige.intrinsic.cells import Tracing
from vestige.intrinsic.latents import ConceptLatents
from vestige.intrinsic.patched import Patching
from vestige.intrinsic.spans import answer_spans
from vestige.items import audit_items
from vestige.located import located
from vestige.metrics.weights import cosine, top_tokens
from vestige.progress import steps
from vestige.provenance import provenance
from vestige.residual import residual_knowledge
from vestige.result import AuditReport, ConceptVectorRow, GenerationRow, Result, SubjectInfo
from vestige.stands_out import null_draws
from vestige.subjects import Source, sources_of
from vestige.verdict import verdicts
from vestige.words import concept_words

SHOWN_TOKENS = 12
SHOWN_FORGET, SHOWN_RETAIN = 6, 3


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
    check_at_least(1, **settings)
    check_at_least(0, seed=seed, top_vectors=top_vectors)
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
    instruments = Instruments(
        original,
        prepared,
        decoder=decoder,
        vectors=vectors,
        patching=Patching(original, answer_spans(original, prepared.forget), decoder=decoder, batch_size=batch_size),
        marking=None if sae is None else ConceptLatents(original, sae, prepared, seed=seed),
        tracing=Tracing(original, prepared.forget, batch_size=batch_size) if where else None,
        attacks=rows,
        notes=notes,
        batch_size=batch_size,
        max_new_tokens=max_new_tokens,
        seed=seed,
    )
    seen = {
        info.name: instruments.read(info, source)
        for info, source in steps(sources, "reading subjects", show=progress, label=lambda pair: pair[0].name)
    }
    hashes = {name: one.weights for name, one in seen.items()}
    _warn_of_other_weights(sources, original, hashes)
    subjects = tuple(info for info, _ in sources)
    evidence = Evidence(
        prepared,
        subjects,
        {name: one.reading for name, one in seen.items()},
        decoder,
        vectors,
        seed,
        patched={name: one.patched for name, one in seen.items() if one.patched is not None},
        moved={name: one.moved for name, one in seen.items()},
        latents={name: one.surviving for name, one in seen.items() if one.surviving is not None},
    )
    results: list[Result] = []
    for check in steps(CHECKS, "running checks", show=progress, label=lambda c: c.__name__):
        results += check(evidence)
    traced = {name: one.traced for name, one in seen.items() if one.traced is not None}
    report = AuditReport(
        provenance=provenance(
            original,
            prepared,
            sources,
            hashes=hashes,
            words=words,
            settings={
                "seed": seed,
                **settings,
                "items_shortened": shortened,
                "suite": suite,
                "attacks": [row.name for row in rows],
                **({} if instruments.marking is None else {"sae": instruments.marking.described()}),
            },
        ),
        subjects=subjects,
        results=tuple(results),
        concept_vectors=_vector_rows(evidence, original),
        generations=_generation_rows(evidence),
        latents=edited_latents(original, sources, prepared),
        attacks=compared(subjects, {name: one.attacked for name, one in seen.items()}, rows, seed=seed),
        where=located(subjects, traced, seed=seed) if where else (),
    )
    residual = residual_knowledge(report)
    return replace(
        report,
        residual=residual,
        verdicts=verdicts(subjects, results, residual, report.concept_vectors, report.attacks),
    )


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
                p_least=vector.p_least,
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
