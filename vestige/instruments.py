"""What an audit does to one subject: everything that is read while its edits are in force, prepared once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hooked import HookedModel, Intervention, UnlearnData
from hooked.decoder import Decoder
from hooked.fingerprint import weights_sha256
from probes import ConceptVector
from vestige.attacks.attacked import Notes, Target
from vestige.attacks.catalogue import Attack
from vestige.attacks.run import Outcome, run_attacks
from vestige.intrinsic.cells import CellFalls, Tracing
from vestige.intrinsic.latents import ConceptLatents, Survival
from vestige.intrinsic.patched import Patched, Patching
from vestige.intrinsic.weights import Moved, moved_between, moved_by
from vestige.reading import Reading, read
from vestige.result import SubjectInfo
from vestige.subjects import Source, blamed, opened


@dataclass(frozen=True)
class Seen:
    """What was read of one subject.

    Args:
        reading: Probabilities, texts and states.
        weights: Fingerprint of its bare weights.
        moved: How far each of its blocks is from the original's, or why that cannot be said.
        attacked: Attack to what came of it; empty where none was chosen.
        patched: What of its states the original answers from; None where that cannot be patched.
        traced: Where its answers are; None where that was not asked for.
        surviving: What is left of the concept's latents, or why that cannot be said; None without an SAE.
    """

    reading: Reading
    weights: str | None
    moved: tuple[Moved, ...] | str
    attacked: Mapping[str, Outcome]
    patched: Patched | None
    traced: CellFalls | None
    surviving: Survival | str | None


@dataclass(frozen=True, eq=False)
class Instruments:
    """Everything that subjects are read with.

    Args:
        original: The model before unlearning.
        data: The items, which fit its context.
        decoder: Its unembedding, which reads the states of all subjects.
        vectors: Value vectors of the concept.
        patching: Of its answers.
        marking: Latents of the concept, where there is an SAE.
        tracing: Of its answers, where a map is asked for.
        attacks: To run.
        notes: What attackers prepared on the original; None where there are no attacks.
        batch_size: Rows per forward pass.
        max_new_tokens: Length of the continuations.
        seed: Of everything that draws.
    """

    original: HookedModel
    data: UnlearnData
    decoder: Decoder
    vectors: tuple[ConceptVector, ...]
    patching: Patching
    marking: ConceptLatents | None
    tracing: Tracing | None
    attacks: tuple[Attack, ...]
    notes: Notes | None
    batch_size: int
    max_new_tokens: int
    seed: int

    def read(self, info: SubjectInfo, source: Source) -> Seen:
        """Open a subject, read it with everything and close it.

        Raises:
            VestigeError: It cannot be opened or read; the message names it.
        """
        attacked: Mapping[str, Outcome] = {}
        with blamed(info, source, original=self.original):
            with opened(info, source, original=self.original) as subject:
                reading = read(
                    subject,
                    self.data,
                    decoder=self.decoder,
                    vectors=[(v.layer, v.neuron) for v in self.vectors],
                    batch_size=self.batch_size,
                    max_new_tokens=self.max_new_tokens,
                    seed=self.seed,
                )
                weights = weights_sha256(subject.raw)
                if self.notes is not None:
                    target = Target(info.name, info.kind, subject.model, subject.raw, self.notes)
                    attacked = run_attacks(target, self.data, self.attacks, batch_size=self.batch_size, seed=self.seed)
                states = self.patching.read(subject)
                cells = self.tracing.read(subject) if self.tracing else None
                surviving = self.marking.read(subject) if self.marking else None
                between = None if isinstance(source, Intervention) else moved_between(self.original, subject.raw)
            # Only now is the original whole again.
            return Seen(
                reading=reading,
                weights=weights,
                moved=moved_by(source, self.original) if isinstance(source, Intervention) else between or (),
                attacked=attacked,
                patched=None if states is None else self.patching.patched(states),
                traced=None if self.tracing is None or cells is None else self.tracing.falls(cells),
                surviving=surviving,
            )
