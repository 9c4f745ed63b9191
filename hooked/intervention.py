"""Interventions: frozen values that hold what a method changes, and the views through which their effect is read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked.errors import VestigeError
from hooked.hooks import Edit, HookContext, Request
from hooked.model import HookedModel
from hooked.sites import SiteLike
from hooked.weights import WeightPatch, patched

Intent = Literal["removal", "suppression", "attack"]


class LogitEdit(Protocol):
    """Changes logits on their way out: combines them with another model's, or replaces them by a refusal."""

    def __call__(self, logits: Float[Tensor, "batch pos d_vocab"], request: Request, /) -> Tensor: ...


class Gate(Protocol):
    """Decides from the prompt on which rows an intervention acts."""

    def __call__(self, raw: HookedModel, request: Request, /) -> Bool[Tensor, " batch"]: ...


@dataclass(frozen=True)
class Spec:
    """What a method says of itself.

    Args:
        name: Name of the method.
        intent: `removal` (it claims that the knowledge is gone), `suppression` (that it is not shown), or `attack`.
        needs: What fitting took, e.g. `("forget", "retain")`.
        source: Paper or origin.
        settings: The arguments it was fitted with; JSON values.
    """

    name: str
    intent: Intent
    needs: tuple[str, ...] = ()
    source: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.intent not in ("removal", "suppression", "attack"):
            raise VestigeError(f"intent is 'removal', 'suppression' or 'attack', got {self.intent!r}")


@dataclass(frozen=True)
class Intervention:
    """A change of a model's behaviour, at any of five points; building one changes nothing.

    Args:
        spec: Name, claim, needs and source.
        weights: Weight deltas, in force while the intervention is applied.
        edits: Site to an edit of the activation there.
        embedding: An edit of `hook_embed`, kept only on prompt tokens of the first chunk of a request.
        logits: An edit of the logits.
        gate: Rows on which `edits`, `embedding` and `logits` act; every other row stays bit-identical.
    """

    spec: Spec
    weights: WeightPatch | None = None
    edits: Mapping[SiteLike, Edit] = field(default_factory=dict)
    embedding: Edit | None = None
    logits: LogitEdit | None = None
    gate: Gate | None = None

    @property
    def points(self) -> tuple[str, ...]:
        """Which interception points are used."""
        used = {
            "weights": self.weights is not None,
            "edits": bool(self.edits),
            "embedding": self.embedding is not None,
            "logits": self.logits is not None,
            "gate": self.gate is not None,
        }
        return tuple(name for name, here in used.items() if here)

    @contextmanager
    def applied(self, model: HookedModel) -> Iterator[View]:
        """Put the intervention in force.

        Weight deltas change the model's parameters for the length of the block and are then restored bit by bit, also after an exception. Everything
        else acts only on what is read through the view.

        Args:
            model: A model, or the view of another intervention, which then stays in force too.

        Raises:
            VestigeError: The intervention does not fit the model.
        """
        for site in self.edits:
            model.site_map.resolve(site)
        with ExitStack() as stack:
            if self.weights is not None:
                stack.enter_context(patched(model.model, self.weights))
            yield View(model, self)

    def save(self, folder: str | Path) -> None:
        """Write the intervention as JSON and safetensors into a new or empty folder.

        Raises:
            VestigeError: An edit is an ordinary function, which has no data form; the folder holds other files.
        """
        from hooked.persist import save

        save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Intervention:
        """Read an intervention that `save` wrote. Nothing is unpickled, and only value classes of Vestige's own packages are built."""
        from hooked.persist import load

        return load(Path(folder))

    def bake(self, model: HookedModel, folder: str | Path) -> None:
        """Write a Hugging Face directory whose weights carry the intervention for good.

        Raises:
            VestigeError: The intervention is not made of weights alone; the message names what stays outside.
        """
        from hooked.persist import bake

        bake(self, model, Path(folder))


class View(HookedModel):
    """A model with interventions in force, read through the same methods as a model. Get one from `Intervention.applied`."""

    def __init__(self, base: HookedModel, intervention: Intervention) -> None:
        # A view shares everything with its base; only what `_interventions` and `_finish` return differs.
        self.__dict__.update(base.__dict__)
        self._raw: HookedModel = base._raw if isinstance(base, View) else base
        earlier = base.interventions if isinstance(base, View) else ()
        self.interventions: tuple[Intervention, ...] = (*earlier, intervention)

    @property
    def raw(self) -> HookedModel:
        """The same weights with every edit, gate and combiner stripped: what somebody who takes the weights would have."""
        return self._raw

    @property
    def intervention(self) -> Intervention:
        """The one applied last."""
        return self.interventions[-1]

    def _interventions(self, request: Request) -> list[tuple[SiteLike, Edit]]:
        edits: list[tuple[SiteLike, Edit]] = []
        for index, intervention in enumerate(self.interventions):
            rows = self._gated(index, intervention, request)
            if intervention.embedding is not None and request.offset == 0:
                edits.append(("hook_embed", _only(intervention.embedding, rows=rows, prompt=True)))
            edits += [(site, edit if rows is None else _only(edit, rows=rows)) for site, edit in intervention.edits.items()]
        return edits

    def _finish(self, logits: Tensor, request: Request) -> Tensor:
        for index, intervention in enumerate(self.interventions):
            if intervention.logits is None:
                continue
            rows = self._gated(index, intervention, request)
            changed = intervention.logits(logits, request)
            if changed.shape != logits.shape:
                raise VestigeError(f"the logit edit of '{intervention.spec.name}' returned shape {tuple(changed.shape)}, needed {tuple(logits.shape)}")
            logits = changed if rows is None else torch.where(rows[:, None, None], changed, logits)
        return logits

    def _gated(self, index: int, intervention: Intervention, request: Request) -> Tensor | None:
        if intervention.gate is None:
            return None
        key = ("gate", index)
        if key not in request.state:
            # Decided once per request, on the prompt; later chunks inherit the decision.
            rows = intervention.gate(self.raw, request)
            if rows.shape != (len(request.ids),) or rows.dtype != torch.bool:
                raise VestigeError(f"the gate of '{intervention.spec.name}' returned {rows.dtype} of shape {tuple(rows.shape)}, needed bool of shape ({len(request.ids)},)")
            request.state[key] = rows
        held: Tensor = request.state[key]
        return held


def _only(edit: Edit, *, rows: Tensor | None, prompt: bool = False) -> Edit:
    """Restrict an edit to some rows or to prompt tokens; elsewhere the activation passes through bit by bit."""

    def restricted(activation: Tensor, /, hook: HookContext) -> Tensor | None:
        request = hook.request
        where = torch.ones(activation.shape[:2], dtype=torch.bool, device=activation.device)
        if rows is not None:
            where &= rows[:, None].to(where.device)
        if prompt and request is not None:
            where &= request.prompt.to(where.device)
        result = edit(activation.clone(), hook=hook)
        if result is None:
            raise VestigeError(f"the edit at '{hook.name}' returned None; an edit behind a gate or on embeddings returns the new tensor")
        return torch.where(where[(...,) + (None,) * (activation.ndim - 2)], result, activation)

    return restricted

