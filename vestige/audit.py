"""The audit: read every subject once, run every check, say what was found."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from hooked import HookedModel, Item, UnlearnData
from probes import ConceptVector, find_concept_vectors
from vestige.checks import CHECKS
from vestige.evidence import Evidence
from vestige.items import audit_items
from vestige.metrics.weights import cosine, default_k, top_tokens
from vestige.progress import steps
from vestige.reading import Reading, read
from vestige.result import AuditReport, ConceptVectorRow, GenerationRow, Kind, Result, SubjectInfo
from vestige.subjects import Source, describe, opened
from vestige.verdict import verdicts

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
        original: The model before unlearning.
        unlearned: Interventions, loaded models, or folders with either, in any mix.
        data: Forget items, retain items, and optionally control items that test other abilities.
        retrained: A model trained without the forget set; forget quality and the probes need it.
        never: A model that was never taught the facts; the control of every check. The retrained model stands in where it is missing.
        lexicon: Words of the concept, for the search of concept vectors; by default words that only the forget answers have.
        top_vectors: How many concept vectors are followed.
        seed: Of item sampling, resampling and permutations.
        batch_size: Rows per forward pass.
        max_items: Most items per split; more are sampled.
        max_new_tokens: Length of the continuations.
        progress: Show a progress bar.

    Returns:
        The report; `report.save(folder)` writes it.

    Raises:
        VestigeError: A subject cannot be opened, or there is nothing to score.
    """
    prepared = audit_items(data, max_items=max_items, seed=seed)
    vectors = _vectors(original, data, lexicon, top_vectors, seed)
    decoder = original.decoder.frozen()
    taken: set[str] = set()
    sources: list[tuple[SubjectInfo, Source]] = [describe(original, "original", taken=taken, name="original")]
    sources += [describe(source, "unlearned", taken=taken) for source in unlearned]
    references: list[tuple[Source | None, Kind, str]] = [(retrained, "retrained", "retain"), (never, "never", "never")]
    sources += [describe(source, kind, taken=taken, name=name) for source, kind, name in references if source is not None]
    readings: dict[str, Reading] = {}
    places = [(v.layer, v.neuron) for v in vectors]
    for info, source in steps(sources, "reading subjects", show=progress, label=lambda pair: pair[0].name):
        with opened(info, source, original=original) as subject:
            readings[info.name] = read(
                subject,
                prepared,
                decoder=decoder,
                vectors=places,
                batch_size=batch_size,
                max_new_tokens=max_new_tokens,
                seed=seed,
            )
    subjects = tuple(info for info, _ in sources)
    evidence = Evidence(prepared, subjects, readings, decoder, vectors, seed)
    results: list[Result] = []
    for check in steps(CHECKS, "running checks", show=progress, label=lambda c: c.__name__):
        results += check(evidence)
    return AuditReport(
        provenance=_provenance(original, prepared, seed, subjects),
        subjects=subjects,
        results=tuple(results),
        concept_vectors=_vector_rows(evidence, original),
        generations=_generation_rows(evidence),
        verdicts=verdicts(subjects, results),
    )


def forget_words(data: UnlearnData) -> tuple[str, ...]:
    """Return the words that the forget answers have and the retain answers do not."""
    kept = {word for item in data.retain for word in _words(item)}
    return tuple(dict.fromkeys(word for item in data.forget for word in _words(item) if word not in kept))


def _words(item: Item) -> list[str]:
    return [word for word in (part.strip(".,;:!?\"'()") for part in item.answer.split()) if len(word) > 1]


def _vectors(original: HookedModel, data: UnlearnData, lexicon: Sequence[str] | None, top: int, seed: int) -> tuple[ConceptVector, ...]:
    words = tuple(lexicon) if lexicon is not None else forget_words(data)
    if not words or top < 1:
        return ()
    if all(item.is_document for item in data.forget) and lexicon is None:
        words = data.concepts
    return tuple(find_concept_vectors(original, lexicon=words, top=top, seed=seed)) if words else ()


def _vector_rows(evidence: Evidence, original: HookedModel) -> tuple[ConceptVectorRow, ...]:
    unembedding = evidence.decoder.W_U.float().cpu().numpy()
    shown = min(SHOWN_TOKENS, default_k(unembedding.shape[1]))

    def words(row: np.ndarray[Any, Any]) -> tuple[str, ...]:
        return tuple(original.to_string([token]) for token in top_tokens(row @ unembedding, k=shown))

    rows = []
    for vector in evidence.vectors:
        at = (vector.layer, vector.neuron)
        before = evidence.original.value_rows[at]
        others = {s.name: evidence.readings[s.name].value_rows.get(at) for s in evidence.subjects[1:]}
        same = {name: row for name, row in others.items() if row is not None and row.shape == before.shape}
        rows.append(
            ConceptVectorRow(
                layer=vector.layer,
                neuron=vector.neuron,
                score=vector.score,
                p_value=vector.p_value,
                before=words(before),
                after={name: words(row) for name, row in same.items()},
                cosine={name: cosine(before, row) for name, row in same.items()},
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
        rows.append(GenerationRow("retain", item.prompt, item.answer, {name: split.texts[n] for name, split in texts.items() if split is not None}))
    return tuple(rows)


def _provenance(original: HookedModel, data: UnlearnData, seed: int, subjects: tuple[SubjectInfo, ...]) -> dict[str, Any]:
    digest = hashlib.sha256()
    for name, tensor in sorted(original.state().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return {
        "original": original.name,
        "original_sha256": digest.hexdigest(),
        "dtype": str(original.dtype).removeprefix("torch."),
        "items": {split: len(getattr(data, split)) for split in ("forget", "retain", "control")},
        "concepts": list(data.concepts),
        "data_sha256": hashlib.sha256(repr(data).encode()).hexdigest(),
        "subjects": {s.name: s.source for s in subjects},
        "seed": seed,
        "versions": {name: version(name) for name in ("vestige", "torch", "transformers", "transformer-lens")},
    }

