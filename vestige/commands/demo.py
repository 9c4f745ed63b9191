"""`vestige demo`: the whole main job on the built-in model, whose truth is known."""

from __future__ import annotations

from pathlib import Path

import torch

from hooked import Intervention, VestigeError
from vestige import organism
from vestige.auditing import audit
from vestige.commands import inputs
from vestige.commands.called import with_command
from vestige.commands.inputs import plain_output
from vestige.commands.unlearn import fit
from vestige.output import check_output, output_folder
from vestige.progress import steps
from vestige.result import AuditReport

# Method to the settings that differ from its defaults.
METHODS: dict[str, tuple[str, ...]] = {
    "neuron_adjust": (),
    "key_space_detection": (),
    "ablate_vectors": ("mode=zero",),
    "gradient_ascent": (),
    "npo": (),
}


def run(*, out: Path, overwrite: bool, seed: int, device: str | None, quiet: bool) -> AuditReport:
    """Run the demo and write its report."""
    check_output(out, overwrite=overwrite)
    plain_output()
    # The organism's matrices are too small to share: more threads only wait for each other.
    torch.set_num_threads(1)
    report = with_command(demo(seed=seed, device=device, progress=not quiet))
    with output_folder(out, overwrite=overwrite) as folder:
        report.save(folder)
    return report


def demo(*, seed: int = 0, device: str | None = None, progress: bool = False) -> AuditReport:
    """Unlearn one concept of the organism five ways, and audit the results against `retain` and `never`.

    Raises:
        VestigeError: The built-in checkpoints are missing, or the device does not exist.
    """
    try:
        full, retain, never = (organism.organism_path(name) for name in organism.CHECKPOINTS)
    except FileNotFoundError as error:
        raise VestigeError(str(error)) from error
    data = organism.organism_data()
    original = inputs.model(str(full), device=device, dtype="float32")
    words = organism.lexicon(data.concepts[0])
    fitted: list[Intervention] = []
    for name, pairs in steps(list(METHODS.items()), "unlearning", show=progress, label=lambda method: method[0]):
        # A bar inside the bar would draw over it.
        fitted.append(fit(name, original, data, lexicon=words, seed=seed, pairs=pairs, progress=False))
    return audit(
        original,
        unlearned=fitted,
        data=data,
        retrained=retain,
        never=never,
        lexicon=words,
        seed=seed,
        progress=progress,
    )
