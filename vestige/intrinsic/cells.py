"""Cells of a model, component by layer by position: read in one model, patched into another, one cell at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked import HookContext, HookedModel, Item, VestigeError
from hooked.forward import FwdHooks
from hooked.hooks import Edit
from vestige.intrinsic.patching import answer_log_probs, plain_log_probs
from vestige.intrinsic.positions import POSITIONS, columns_of
from vestige.intrinsic.spans import Rows, answer_spans
from vestige.subjects import Subject

COMPONENTS = ("attention", "mlp", "block")
MAX_ITEMS = 16

# What is added to the residual stream where a module computes that, else what the module puts out.
_KINDS = (("hook_attn_out", "attn.hook_out"), ("hook_mlp_out", "mlp.hook_out"), ("hook_resid_post",))

CellFalls = Float[np.ndarray, "n_components n_layers n_positions n_items"]

# Batch, by the items it holds, to site to activation.
CellStates = Mapping[tuple[int, ...], Mapping[str, Tensor]]


class Tracing:
    """The original, into which the cells of one subject after the other are patched.

    As for the depth score, states of a subject are written into the original, which reads on from there: weight edits
    act on the original while a subject is open, so `read` comes while it is, and `falls` when it is closed. A subject
    takes `len(COMPONENTS) * n_layers * len(POSITIONS)` passes over the items, and its states
    `3 n_layers n_tokens d_model` numbers until they are patched.

    Args:
        original: The model before unlearning.
        items: With answers; evenly spread ones are taken where there are more than `max_items`.
        max_items: Most items that are traced.
        batch_size: Texts per forward pass.

    Raises:
        VestigeError: No item, or one without an answer.
    """

    def __init__(
        self, original: HookedModel, items: Sequence[Item], *, max_items: int = MAX_ITEMS, batch_size: int = 32
    ) -> None:
        if not items or max_items < 1:
            raise VestigeError(f"tracing takes at least one item, got {len(items)} and max_items={max_items}")
        n = min(len(items), max_items)
        self.items = tuple(items[k * len(items) // n] for k in range(n))
        self._original, self._batch_size = original, batch_size
        self._spans = answer_spans(original, self.items)
        self._columns = columns_of(original, self.items, self._spans)
        self._sites = sites_of(original)
        self._plain: Float[np.ndarray, " n_items"] | None = None

    @torch.no_grad()
    def read(self, subject: Subject) -> CellStates | None:
        """Return the states of an open subject as deployed; None where it has other blocks than the original.

        Raises:
            VestigeError: No item has a place at which its answer is predicted, or the states are not finite.
        """
        model = subject.model
        if sites_of(model) != self._sites:
            return None
        names = [site for row in self._sites for site in row]
        states = {}
        for rows in self._spans.batches(self._batch_size):
            kept: dict[str, Tensor] = {}
            model.run_with_hooks(
                rows.batch.to(model.device),
                fwd_hooks=[(site, _keeper(kept, site)) for site in names],
                stop_at_layer=model.n_layers,
            )
            _check_finite(kept, rows.batch.mask)
            states[rows.items] = kept
        if not states:
            raise VestigeError("no item has a place at which its answer is predicted, so no cell can be read")
        return states

    @torch.no_grad()
    def falls(self, states: CellStates) -> CellFalls:
        """Patch states into the original, on which nothing may be in force, one cell at a time.

        Returns:
            By how much its mean log-probability of the asked tokens falls, nats; NaN for items without the position.
        """
        if self._plain is None:
            self._plain = plain_log_probs(self._original, self._spans, batch_size=self._batch_size)
        shape = (len(COMPONENTS), self._original.n_layers, len(POSITIONS), len(self.items))
        falls = np.full(shape, np.nan)
        for position in range(len(POSITIONS)):
            has = np.array([bool(columns[position]) for columns in self._columns])
            for component, row in enumerate(self._sites if has.any() else ()):
                for layer, site in enumerate(row):
                    found = self._plain - self._patched(states, site, position)
                    falls[component, layer, position] = np.where(has, found, np.nan)
        return falls

    def _patched(self, states: CellStates, site: str, position: int) -> Float[np.ndarray, " n_items"]:
        def hooks(rows: Rows) -> FwdHooks:
            chosen = torch.zeros_like(rows.batch.mask)
            for row, item in enumerate(rows.items):
                chosen[row, list(self._columns[item][position])] = True
            return [(site, _patch(states[rows.items][site], chosen))]

        return answer_log_probs(self._original, self._spans, hooks, self._batch_size)


def sites_of(model: HookedModel) -> tuple[tuple[str, ...], ...]:
    """Return the sites of every component, layer by layer, in the order of `COMPONENTS`."""
    known = model.site_map
    return tuple(
        tuple(
            known.resolve(next((s for s in names if s in known.taps), names[-1]))
            for names in ([f"blocks.{layer}.{kind}" for kind in kinds] for layer in range(model.n_layers))
        )
        for kinds in _KINDS
    )


def _keeper(kept: dict[str, Tensor], site: str) -> Edit:
    def keep(activation: Tensor, hook: HookContext) -> None:
        kept[site] = activation.cpu()

    return keep


def _patch(values: Float[Tensor, "batch pos d_model"], chosen: Bool[Tensor, "batch pos"]) -> Edit:
    def patch(activation: Tensor, hook: HookContext) -> Tensor:
        return torch.where(chosen.to(activation.device)[..., None], values.to(activation), activation)

    return patch


def _check_finite(kept: Mapping[str, Tensor], mask: Bool[Tensor, "batch pos"]) -> None:
    for site, values in kept.items():
        if not bool(torch.isfinite(values[mask.cpu()]).all()):
            raise VestigeError(f"'{site}' holds NaN or infinity; the model has diverged")
