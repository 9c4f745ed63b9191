"""What an audit returns: frozen values that hold no model and compute nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vestige.features import EditedLatents

Kind = Literal["original", "unlearned", "retrained", "never"]
Orientation = Literal["leaky", "forgotten", "useful", "changed"]
Placed = Literal["suppression", "mixed", "removal"]


@dataclass(frozen=True)
class SubjectInfo:
    """One column of an audit.

    Args:
        name: Unique name, e.g. `original`, `npo`, `retain`, `never`.
        kind: Its role: the model before unlearning, an unlearned one, one retrained without the forget set, one never
            taught it.
        intent: What the method claims (`removal` or `suppression`); None for models that make no claim.
        source: The paper or the folder the subject comes from.
    """

    name: str
    kind: Kind
    intent: str | None = None
    source: str = ""


@dataclass(frozen=True)
class Result:
    """One number of an audit with everything needed to believe it.

    Args:
        check: Name of the check, e.g. `forget_probability`.
        subject: Name of the subject it was measured on.
        estimate: The value; None when it could not be measured, and then `note` says why.
        low: Lower end of the 95 % item-level bootstrap interval (None when there is none).
        high: Upper end.
        n: Number of items behind the estimate.
        floor: What chance scores on the same items (None when chance is undefined for the check, and `note` says so).
        control: The same check on the never-taught model (or the retrained one where no never-taught model was given).
        higher_is: What a higher value means: `leaky` (knowledge is there), `forgotten`, `useful`, or `changed` (weights
            moved).
        per_item: The values that were averaged.
        per_layer: One value per layer, for checks that look inside.
        per_layer_control: The same layers on the control.
        note: A reason, a flag of a degenerate value, or a reading hint; one sentence.
    """

    check: str
    subject: str
    estimate: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    floor: float | None = None
    control: float | None = None
    higher_is: Orientation = "leaky"
    per_item: tuple[float, ...] = ()
    per_layer: tuple[float, ...] | None = None
    per_layer_control: tuple[float, ...] | None = None
    note: str = ""


@dataclass(frozen=True)
class AttackResult:
    """What an attack got out of one subject, and how much of that the knowledge explains.

    Args:
        attack: Name of the attack.
        subject: Name of the subject.
        estimate: Mean score under attack, in leak orientation; None when it could not be run, and `note` says why.
        low: Lower end of the 95 % item-level bootstrap interval.
        high: Upper end.
        n: Number of items.
        measure: What is scored: the `probability` of the answer, of its `subject` or its `translation`,
            `choice`, `candidates`, `recall` or `accuracy`.
        plain: Mean score of the plain question; None where the attack measures something else.
        floor: What chance scores.
        control: Mean score of the same attack on the never-taught model (or the retrained one).
        gap: Recovery gap: `(attacked - control attacked) / (original - control)`, 0 for a model that never knew and 1
            for the original; the denominator is that of the plain question where the attack measures `probability`, and
            the attack's own otherwise. None where it is not identified.
        gap_low: Lower end of its interval, items resampled in pairs.
        gap_high: Upper end.
        matched: The same with the attack's own denominator, where the attack moves the original by more than 0.05.
        access: What the attacker needs.
        uses_target: Whether the attack was shown the answers it is scored on: an upper bound.
        curve: Steps of the attacker to the mean score after them.
        per_layer: Mean score per block, for attacks that look inside.
        per_item: The scores.
        budget: What was spent.
        note: A reason, or a reading hint.
    """

    attack: str
    subject: str
    estimate: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    measure: str = "probability"
    plain: float | None = None
    floor: float | None = None
    control: float | None = None
    gap: float | None = None
    gap_low: float | None = None
    gap_high: float | None = None
    matched: float | None = None
    access: str = ""
    uses_target: bool = False
    curve: Mapping[int, float] | None = None
    per_layer: tuple[float, ...] | None = None
    per_item: tuple[float, ...] = ()
    budget: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class ResidualKnowledge:
    """What all instruments say together of one subject.

    Args:
        subject: Name of the subject.
        instruments: What was listened to: `checks` alone, or a suite of attacks too.
        score: 0 as a model that never knew, 1 as the original: a mean of square roots of shares.
        probability: That the subject still holds the facts, as calibrated on small models whose knowledge is known.
        abstains: Whether that is too unsure for a claim; without attacks also wherever it would be one of absence.
        loudest: The instrument with the largest part in it.
        missing: Instruments that could not be used.
        placed: Where that places a method, beside what it claims; None for references, or where something is missing.
    """

    subject: str
    instruments: str
    score: float
    probability: float
    abstains: bool
    loudest: str | None = None
    missing: tuple[str, ...] = ()
    placed: Placed | None = None


@dataclass(frozen=True)
class ConceptVectorRow:
    """A concept vector of the original model and what a subject made of it.

    Args:
        layer: Block index.
        neuron: Neuron index within the block.
        score: Ranking score of the search on the original model.
        p_value: Share of matched random directions that score at least as high.
        p_adjusted: The same, corrected for the number of vectors that were examined; None where that was not done.
        p_least: The smallest corrected one that a lone vector could have had; None where that is not known.
        before: Top tokens of the vector in the original model, decoded with the original unembedding.
        after: Subject name to the top tokens of the same row in that subject, decoded with the original unembedding.
        cosine: Subject name to the cosine between the row before and after (None when a row is zero).
    """

    layer: int
    neuron: int
    score: float
    p_value: float
    before: tuple[str, ...]
    after: Mapping[str, tuple[str, ...]]
    cosine: Mapping[str, float | None]
    p_adjusted: float | None = None
    p_least: float | None = None


@dataclass(frozen=True)
class GenerationRow:
    """One prompt and what every subject answered. Text of a model is untrusted: escape it wherever it is shown."""

    split: Literal["forget", "retain"]
    prompt: str
    answer: str
    outputs: Mapping[str, str]


Grid = tuple[tuple[tuple[float, ...], ...], ...]


@dataclass(frozen=True)
class WhereMap:
    """What each part of one subject still carries of the answers: grids of component, layer, position.

    Args:
        subject: Name of the subject.
        components: What writes into the residual stream, and the stream itself: `attention`, `mlp`, `block`.
        positions: Named positions of a question, e.g. `answer`.
        shares: Of what the original's strongest block output carries where the answer is predicted; 0 for the anchor.
            NaN where nothing could be measured; without any row, `note` says why.
        low: Lower ends of the 95 % item-level bootstrap intervals.
        high: Upper ends.
        clear: 1 where the subject's state keeps the answer likelier than the control's, 0 where that cannot be told.
        falls: By how much its states, put into the original, lower the answers' mean log-probability, nats.
        counts: Number of items that have each position.
        whole: The fall that is a share of 1, nats.
        anchor: The subject whose share is 0.
        control: The subject that `clear` compares with.
        note: Why there is no map, or a reading hint.
    """

    subject: str
    components: tuple[str, ...] = ()
    positions: tuple[str, ...] = ()
    shares: Grid = ()
    low: Grid = ()
    high: Grid = ()
    clear: tuple[tuple[tuple[int, ...], ...], ...] = ()
    falls: Grid = ()
    counts: tuple[int, ...] = ()
    whole: float | None = None
    anchor: str = ""
    control: str = ""
    note: str = ""


@dataclass(frozen=True)
class AuditReport:
    """All results of one audit. `to_html`, `to_json` and the figures are made from this value alone.

    Args:
        provenance: Models, data, hashes, seed, versions, date, commit, command: JSON values.
        subjects: The columns, original first.
        results: One entry per check and subject.
        concept_vectors: The vectors that were followed.
        generations: Example answers.
        attacks: What attacks got out of each subject; one entry per attack and subject.
        latents: What interventions do to the latents of sparse autoencoders.
        verdicts: Subject name to a verdict in plain words.
        where: What each part of every subject still carries, where the audit was asked to trace it.
        residual: What all instruments say together; one entry per subject but the original, where there is a scale.
    """

    provenance: Mapping[str, Any]
    subjects: tuple[SubjectInfo, ...]
    results: tuple[Result, ...]
    concept_vectors: tuple[ConceptVectorRow, ...] = ()
    generations: tuple[GenerationRow, ...] = ()
    verdicts: Mapping[str, str] = field(default_factory=dict)
    latents: tuple[EditedLatents, ...] = ()
    attacks: tuple[AttackResult, ...] = ()
    where: tuple[WhereMap, ...] = ()
    residual: tuple[ResidualKnowledge, ...] = ()

    @classmethod
    def load(cls, path: str | Path) -> AuditReport:
        """Return the report that `save` wrote.

        Args:
            path: Its folder, or the `report.json` in it.

        Raises:
            VestigeError: There is none, or it is not a report.
        """
        from vestige.report.storage import read_json

        return read_json(Path(path) / "report.json" if Path(path).is_dir() else Path(path))

    def result(self, check: str, subject: str) -> Result:
        """Return the result of one check on one subject; KeyError lists nothing silently."""
        for result in self.results:
            if result.check == check and result.subject == subject:
                return result
        raise KeyError(f"no result for check {check!r} on subject {subject!r}")

    def to_html(self, path: str | Path) -> None:
        """Write the report as one self-contained HTML file."""
        from vestige.report import render_html

        Path(path).write_text(render_html(self), encoding="utf-8")

    def save(self, folder: str | Path) -> None:
        """Write `report.html`, `report.json`, figures, and pages of edited latents into a folder, made if missing."""
        from vestige.report import write_report

        Path(folder).mkdir(parents=True, exist_ok=True)
        write_report(self, Path(folder))
