"""What audited interventions do to latents of sparse autoencoders, read off the interventions themselves."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from hooked import HookedModel, Intervention, UnlearnData
from sae import Coder, FeatureIndex
from sae.edit.value import LatentEdit
from vestige.features import EditedLatents, LatentRow
from vestige.latents import latent_rows
from vestige.result import SubjectInfo
from vestige.subjects import Source

SHOWN = 20


def edited_latents(
    original: HookedModel, sources: Sequence[tuple[SubjectInfo, Source]], data: UnlearnData
) -> tuple[EditedLatents, ...]:
    """Describe latents that are edited while the model runs, by where they fire in the original model.

    Methods that train weights on latents (CRISP, PISCES) hold no SAE any more; their specs name the latents.

    Args:
        original: The model before unlearning.
        sources: The subjects and what they came from.
        data: The prepared items; what they say is what is read.
    """
    texts = {group: [item.text for item in getattr(data, group)] for group in ("forget", "retain")}
    found = []
    for info, source in sources:
        if isinstance(source, Intervention):
            for step in source.steps:
                numbers = step.spec.settings.get("latents", [])
                for edit in step.edits.values():
                    if isinstance(edit, LatentEdit) and len(edit.columns):
                        rows = _rows(original, edit, numbers, texts)
                        found.append(EditedLatents(info.name, edit.coder.site, len(edit.columns), rows))
    return tuple(found)


def _rows(
    original: HookedModel, edit: LatentEdit, numbers: Sequence[int], texts: dict[str, list[str]]
) -> tuple[LatentRow, ...]:
    columns = edit.columns.tolist()[:SHOWN]
    # An edit holds only the part of its SAE that it needs, numbered anew; people know the numbers of the whole.
    names = dict(zip(edit.columns.tolist(), numbers, strict=True)) if len(numbers) == len(edit.columns) else {}
    roles = {column: _role(edit, place) for place, column in enumerate(columns)}
    groups = [group for group, some in texts.items() for _ in some]
    with tempfile.TemporaryDirectory(prefix="vestige-index-") as folder:
        index = FeatureIndex.build(
            original,
            _whole(edit),
            [text for some in texts.values() for text in some],
            Path(folder) / "index",
            groups=groups,
            progress=False,
        )
        rows = latent_rows(original, _whole(edit), index, columns, roles=roles)
    return tuple(replace(row, latent=names.get(row.latent, row.latent)) for row in rows)


def _whole(edit: LatentEdit) -> Coder:
    """The edit's coder with the decoder rows that the edit kept beside it, where it has no decoder of its own."""
    coder = edit.coder
    if coder.pursuit is not None or not edit.keep_error:
        return coder
    decoder = edit.rows.new_zeros(coder.d_sae, edit.rows.shape[1])
    decoder[edit.columns] = edit.rows
    return replace(coder, decoder=decoder, b_dec=torch.zeros_like(decoder[0]))


def _role(edit: LatentEdit, place: int) -> str:
    """Say what becomes of one latent, e.g. `scale by -1`."""
    gate = "" if edit.gate is None else f", where {_gate(edit.gate.described(), place)}"
    return f"{_said(edit.rule.described(), place)}{gate}"


def _gate(gate: Mapping[str, Any], place: int) -> str:
    if gate["gate"] == "above":
        return f"above {_number(gate['threshold'], place)}"
    # These look at latents of their own, so no one threshold belongs to this one.
    return {"when_any": "one of the watched fires", "when_sequence": "enough of the text fires"}[gate["gate"]]


def _said(rule: Mapping[str, Any], place: int) -> str:
    if "then" in rule:
        return f"{_said(rule['then'], place)} where above {_number(rule['threshold'], place)}"
    return f"{str(rule['rule']).replace('_', ' ')} {_number(rule['amount'], place)}"


def _number(amount: Any, place: int) -> str:
    return f"{amount[place] if isinstance(amount, list) else amount:.3g}"
