"""Editing latents: the stream moves by what a change of some latents adds to it, and by nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from hooked import Edit, Intervention, Spec, VestigeError
from hooked.fingerprint import value_sha256
from hooked.intervention import Intent
from hooked.sites import SiteLike
from sae.chosen import existing
from sae.coder import Coder
from sae.edit.gates import LatentGate
from sae.edit.reference import Reference, columns_of, resolver
from sae.edit.rules import Rule, checked_rule
from sae.edit.value import AddDisplacement, LatentEdit
from sae.positions import Positions
from sae.read import read_coder

# Nonlinearities under which latents do not compete, so that some can be computed without the others.
_SEPARATE = ("relu", "jumprelu", "gated")
_SOURCE = "sparse autoencoder edits as in Karvonen et al. 2025, arXiv:2503.09532"


def edit_latents(
    sae: Any,
    latents: Sequence[int],
    rule: Rule,
    *,
    positions: Positions,
    gate: LatentGate | None = None,
    keep_error: bool = True,
    reference: Reference | None = None,
    detach: bool = False,
    intent: Intent = "suppression",
) -> Intervention:
    """Give latents other values wherever the model runs: x becomes `x + s sum_j (z'_j - z_j) D_j`.

    D are decoder rows, and s undoes a normalisation at run time (1 without one). Nothing else moves: an empty set, a
    closed gate and `scale(1)` leave every bit as it was. That holds where the error is kept; with `keep_error=False`
    every token that counts becomes its reconstruction, whatever is edited.

    Args:
        sae: A `sae_lens.SAE` or a `Coder`. Of a transcoder latents are computed at its input and the effect is added at
            its output.
        latents: Numbers of latents.
        rule: What becomes of them: `scale`, `set_to`, `clamp_negative` or `conditional`.
        positions: Which tokens may change: the rule of the items or index the latents were found with (`items.rule`),
            or `Positions(special_ids(model))`.
        gate: Where the edit acts; wherever the rule changes something, when None.
        keep_error: False replaces the activation by what is decoded from the edited latents.
        reference: What amounts given relative to `max`, `mean` or `q99` are relative to: items, their statistics, a
            `FeatureIndex`, or a mapping from those names to numbers per latent.
        detach: Gradients take the edit as a constant.
        intent: What the intervention claims to be.

    Raises:
        VestigeError: A latent does not exist or is named twice, the rule is none, or an amount is not finite, lacks its
            reference, or is relative to a latent that is silent there.
    """
    coder = read_coder(sae)
    chosen = checked(latents, coder)
    watching = chosen if gate is None or gate.latents is None else checked(gate.latents, coder)
    columns = columns_of(coder, reference, sorted({*chosen, *watching}))
    rule = checked_rule(rule).resolved(resolver(columns, chosen))
    gate = None if gate is None else gate.resolved(resolver(columns, watching))
    settings = {
        "site": coder.site,
        "site_out": coder.site_out,
        "sae_sha256": coder.sha256,
        "latents": chosen,
        **rule.described(),
        "when": None if gate is None else gate.described(),
        "keep_error": keep_error,
        "excluded_tokens": positions.excluded,
        "max_norm": positions.max_norm,
        "reference_sha256": value_sha256(columns) if columns else None,
    }
    small, places = _encoder(coder, chosen, watching, keep_error=keep_error)
    edit = LatentEdit(
        coder=small,
        columns=torch.tensor([places[j] for j in chosen], dtype=torch.int64, device=coder.decoder.device),
        watched=torch.tensor([places[j] for j in watching], dtype=torch.int64, device=coder.decoder.device),
        rows=coder.decoder[chosen].detach().clone(),
        rule=rule,
        gate=gate,
        positions=positions,
        keep_error=keep_error,
        detach=detach,
        name=f"latents {value_sha256((settings, rule, gate))[:16]}",
        across=coder.is_transcoder,
    )
    edits: dict[SiteLike, Edit] = {coder.site: edit}
    if coder.is_transcoder:
        edits[coder.site_out] = AddDisplacement(edit.name)
    return Intervention(Spec("edit_latents", intent, source=_SOURCE, settings=settings), edits=edits)


def named(made: Intervention, name: str, *, needs: tuple[str, ...], source: str, **settings: Any) -> Intervention:
    """Return an edit under the name, needs and source of the method that chose it."""
    spec = replace(made.spec, name=name, needs=needs, source=source, settings={**settings, **made.spec.settings})
    return replace(made, spec=spec)


def latent_edit(intervention: Intervention) -> LatentEdit:
    """Return the edit of latents that an intervention consists of.

    Raises:
        VestigeError: It does not hold exactly one.
    """
    edits = [edit for step in intervention.steps for edit in step.edits.values()]
    found = [edit for edit in edits if isinstance(edit, LatentEdit)]
    if len(found) != 1:
        raise VestigeError(f"'{intervention.spec.name}' holds {len(found)} edits of latents, needed one")
    return found[0]


def checked(latents: Sequence[int], coder: Coder) -> list[int]:
    """Return numbers of latents.

    Raises:
        VestigeError: One is no whole number, does not exist or is named twice.
    """
    chosen, seen = existing(latents, coder.d_sae, what=repr(coder)), set[int]()
    for j in chosen:
        if j in seen:
            raise VestigeError(f"latent {j} is named twice; name every latent once")
        seen.add(j)
    return chosen


def _encoder(
    coder: Coder, chosen: Sequence[int], watching: Sequence[int], *, keep_error: bool
) -> tuple[Coder, dict[int, int]]:
    """Return what is needed of a coder, and where each latent that matters is among its latents."""
    if not keep_error or coder.pursuit is not None:
        return coder, {j: j for j in (*chosen, *watching)}
    # A coder that writes vectors of no width: it can encode, and there is nothing to decode with.
    small = replace(coder, decoder=coder.decoder[:, :0], b_dec=coder.b_dec[:0], skip=None)
    if coder.nonlinearity not in _SEPARATE:
        return small, {j: j for j in (*chosen, *watching)}
    needed = sorted({*chosen, *watching})
    picked: dict[str, Any] = {name: getattr(coder, name) for name in ("b_enc", "threshold", "gain", "b_magnitude")}
    picked = {name: None if values is None else values[needed] for name, values in picked.items()}
    small = replace(
        small,
        W_enc=coder.W_enc[:, needed],
        decoder=small.decoder[needed],
        **picked,
    )
    return small, {j: place for place, j in enumerate(needed)}
