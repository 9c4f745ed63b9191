"""`vestige demo`: the whole main job on the built-in model, whose truth is known."""

from __future__ import annotations

from pathlib import Path

from hooked import HookedModel, Intervention
from vestige import organism
from vestige.auditing import audit
from vestige.commands.unlearn import fit
from vestige.output import check_output, output_folder
from vestige.progress import steps
from vestige.result import AuditReport

METHODS = ("neuron_adjust", "key_space_detection", "ablate_vectors", "gradient_ascent", "npo")


def run(*, out: Path, overwrite: bool, seed: int, device: str | None, quiet: bool) -> AuditReport:
    """Unlearn one concept of the organism five ways, audit the results against `retain` and `never`, and write the report."""
    check_output(out, overwrite=overwrite)
    data = organism.organism_data()
    original = HookedModel.from_pretrained(str(organism.organism_path("full")), dtype="float32", device=device)
    words = organism.lexicon(data.concepts[0])
    fitted: list[Intervention] = []
    for name in steps(METHODS, "unlearning", show=not quiet, label=str):
        fitted.append(fit(name, original, data, lexicon=words, seed=seed, pairs=[]))
    report = audit(
        original,
        unlearned=fitted,
        data=data,
        retrained=organism.organism_path("retain"),
        never=organism.organism_path("never"),
        lexicon=words,
        seed=seed,
        progress=not quiet,
    )
    with output_folder(out, overwrite=overwrite) as folder:
        report.save(folder)
    return report
