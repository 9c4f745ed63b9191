"""The audit: read every subject once, run every check, say what was found."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from hooked import HookedModel, Intervention, UnlearnData, VestigeError
from hooked.fingerprint import weights_sha256
from probes import ConceptVector, find_concept_vectors
from probes.vocabulary import default_k
from vestige.checks import CHECKS
from vestige.context import within_context
from vestige.edited import edited_latents
from vestige.evidence import Evidence
from vestige.items import audit_items
from vestige.metrics.weights import cosine, top_tokens
from vestige.progress import steps
from vestige.provenance import provenance
from vestige.reading import Reading, read
from vestige.result import AuditReport, ConceptVectorRow, GenerationRow, Result, SubjectInfo
from vestige.subjects import Source, describe, opened
from vestige.verdict import verdicts
from vestige.words import concept_words, null_draws

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
    sources = _sources(original, unlearned, retrained, never)
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
    readings: dict[str, Reading] = {}
    hashes: dict[str, str | None] = {}
    for info, source in steps(sources, "reading subjects", show=progress, label=lambda pair: pair[0].name):
        try:
            with opened(info, source, original=original) as subject:
                readings[info.name] = read(
                    subject,
                    prepared,
                    decoder=decoder,
                    vectors=[(v.layer, v.neuron) for v in vectors],
                    batch_size=batch_size,
                    max_new_tokens=max_new_tokens,
                    seed=seed,
                )
                hashes[info.name] = weights_sha256(subject.raw)
        except VestigeError as error:
            raise VestigeError(f"subject '{info.name}': {error}") from error
        except (IndexError, RuntimeError) as error:
            # An intervention fitted on a model of other widths fails somewhere inside a hook.
            if not isinstance(source, Intervention):
                raise
            first = str(error).splitlines()[0]
            raise VestigeError(f"subject '{info.name}' does not fit '{original.name}': {first}") from error
    _warn_of_other_weights(sources, original, hashes)
    subjects = tuple(info for info, _ in sources)
    evidence = Evidence(prepared, subjects, readings, decoder, vectors, seed)
    results: list[Result] = []
    for check in steps(CHECKS, "running checks", show=progress, label=lambda c: c.__name__):
        results += check(evidence)
    return AuditReport(
        provenance=provenance(
            original,
            prepared,
            sources,
            hashes=hashes,
            words=words,
            settings={"seed": seed, **settings, "items_shortened": shortened},
        ),
        subjects=subjects,
        results=tuple(results),
        concept_vectors=_vector_rows(evidence, original),
        generations=_generation_rows(evidence),
        verdicts=verdicts(subjects, results),
        latents=edited_latents(original, sources, prepared),
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


def _check_at_least(least: int, **settings: int) -> None:
    for name, value in settings.items():
        if value < least:
            raise VestigeError(f"{name} is at least {least}, got {value}")


def _sources(
    original: HookedModel, unlearned: Sequence[Source], retrained: Source | None, never: Source | None
) -> list[tuple[SubjectInfo, Source]]:
    """Name every subject, before anything slow begins."""
    taken: set[str] = set()
    first = describe(original, "original", taken=taken, name="original")
    # Named before the unlearned ones, so that a folder called `never` does not take the reference's name.
    references = []
    if retrained is not None:
        references.append(describe(retrained, "retrained", taken=taken, name="retain"))
    if never is not None:
        references.append(describe(never, "never", taken=taken, name="never"))
    return [first, *(describe(source, "unlearned", taken=taken) for source in unlearned), *references]


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
