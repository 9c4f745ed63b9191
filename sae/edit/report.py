"""What an edit of latents does to the stream: how far it moves it, how often, and which latents a second look finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from hooked import HookContext, HookedModel, Intervention, VestigeError
from hooked.sites import SiteLike
from sae.edit.edit import latent_edit
from sae.read import read_coder


@dataclass(frozen=True)
class Dose:
    """How far an intervention moves activations; compare edits at an equal dose, not at an equal number of latents.

    Args:
        norm: Mean length of what is added, over all tokens.
        relative: The same in units of the mean length of an activation.
        rate: Share of tokens on which anything changes.
        tokens: Over how many tokens.
    """

    norm: float
    relative: float
    rate: float
    tokens: int


@torch.no_grad()
def dose(
    model: HookedModel, intervention: Intervention, texts: Sequence[str], *, batch_size: int = 32
) -> dict[str, Dose]:
    """Measure how far an intervention moves the stream at each of its sites.

    Args:
        model: Not changed.
        intervention: With edits of activations.
        texts: Padding does not count, special tokens do.
        batch_size: Texts that run together.

    Raises:
        VestigeError: There is no text, or the intervention edits no activation.
    """
    if intervention.parts:
        names = ", ".join(step.spec.name for step in intervention.steps)
        raise VestigeError(f"a dose is that of one edit, and '{intervention.spec.name}' is made of {names}; ask each")
    if not intervention.edits or not len(texts):
        what = "an edit of an activation" if len(texts) else "a text"
        raise VestigeError(f"the dose of '{intervention.spec.name}' needs {what}, and there is none")
    spies = {str(model.site_map.resolve(site)): _Spy(edit) for site, edit in intervention.edits.items()}
    hooks: list[tuple[SiteLike, Any]] = list(spies.items())
    for start in range(0, len(texts), batch_size):
        model.run_with_hooks(list(texts[start : start + batch_size]), fwd_hooks=hooks, return_type=None)
    return {site: spy.dose for site, spy in spies.items() if spy.tokens}


class _Spy:
    """Runs an edit and keeps how far it moved each token."""

    def __init__(self, edit: Any) -> None:
        self.edit = edit
        self.moved = self.length = 0.0
        self.touched = self.tokens = 0

    def __call__(self, activation: Tensor, /, hook: HookContext) -> Tensor | None:
        before = activation.clone()
        result: Tensor | None = self.edit(activation, hook=hook)
        after = activation if result is None else result
        mask = torch.ones(activation.shape[:2], dtype=torch.bool) if hook.request is None else hook.request.mask
        rows, new = (x.flatten(2)[mask.to(x.device)].double() for x in (before, after))
        self.moved += float((new - rows).norm(dim=-1).sum())
        self.length += float(rows.norm(dim=-1).sum())
        self.touched += int((new != rows).any(-1).sum())
        self.tokens += len(rows)
        return result

    @property
    def dose(self) -> Dose:
        return Dose(
            self.moved / self.tokens, self.moved / max(self.length, 1e-300), self.touched / self.tokens, self.tokens
        )


@dataclass(frozen=True, eq=False)
class Reencoded:
    """What an SAE sees in the edited stream. It is not the latents that were written.

    Args:
        switched_on: Per latent, tokens on which it is active after the edit and was silent before.
        still_active: Share of the tokens on which an edited latent was active and still is, per edited latent; NaN
            where it never was.
        predicted: Largest shift of a pre-activation by what the edit says of the stream, `displacement @ W_enc`.
        error: Largest difference between that and the shift that is found; 0 up to rounding without a normalisation.
    """

    switched_on: Int[Tensor, " d_sae"]
    still_active: Float[Tensor, " latents"]
    predicted: float
    error: float


@torch.no_grad()
def reencode_report(sae: Any, intervention: Intervention, acts: Float[Tensor, "n ..."]) -> Reencoded:
    """Encode the edited activations again: negative clamps switch on latents that read what they write.

    Pre-activations shift by `sum_j (z'_j - z_j) D_j . W_enc[:, i]`, so that `Enc(x')` is not `z'`.

    Args:
        sae: The SAE of the edit.
        intervention: From `edit_latents` or a method on top of it.
        acts: Activations of tokens that count, at its site.

    Raises:
        VestigeError: The SAE is another one, a transcoder, or the edit drops the error.
    """
    coder = read_coder(sae).to(acts.device)
    settings = intervention.spec.settings
    if settings.get("sae_sha256") != coder.sha256:
        raise VestigeError(f"'{intervention.spec.name}' was made with another SAE than {coder!r}")
    if not settings["keep_error"]:
        raise VestigeError("the edit drops the error, so all pre-activations shift; make it with keep_error=True")
    if coder.is_transcoder:
        raise VestigeError("a transcoder does not read what it writes, so there is nothing to encode again")
    latents = list(settings["latents"])
    flat = coder.flat(acts)
    found = latent_edit(intervention).everywhere(flat)
    moved = flat if found is None else found.added(flat)
    before, after = coder.encode(flat) != 0, coder.encode(moved) != 0
    shift = coder.pre_acts(moved) - coder.pre_acts(flat)
    move = torch.zeros_like(flat) if found is None else found.move
    predicted = move.to(coder.W_enc.dtype) @ coder.W_enc
    was = before[:, latents].sum(0)
    still = (before & after)[:, latents].sum(0) / was
    return Reencoded(
        switched_on=(after & ~before).sum(0),
        still_active=still,
        predicted=float(predicted.abs().max()),
        error=float((predicted - shift).abs().max()),
    )
