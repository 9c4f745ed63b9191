"""Interventions: frozen values that hold what a method changes, and the views through which their effect is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from hooked.errors import VestigeError
from hooked.hooks import Edit, HookContext, Request, check_replacement, only_notes
from hooked.ledger import in_force, patched
from hooked.model import HookedModel
from hooked.sites import SiteLike
from hooked.weights import WeightPatch

Intent = Literal["removal", "suppression", "attack"]


@runtime_checkable
class LogitEdit(Protocol):
    """Changes logits on their way out: combines them with another model's, or replaces them by a refusal."""

    def __call__(self, logits: Float[Tensor, "batch pos d_vocab"], request: Request, /) -> Tensor: ...


@runtime_checkable
class Binds(Protocol):
    """A logit edit that needs the model it will act on, e.g. to run a part of it as a second model."""

    def bind(self, raw: HookedModel, /) -> LogitEdit:
        """Return the edit to use until the intervention ends, or until other weight deltas are in force.

        Args:
            raw: The model with weight deltas in force and every edit, gate and combiner stripped.
        """
        ...


@runtime_checkable
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
        settings: The arguments it was fitted with; JSON values, kept as JSON keeps them (a tuple becomes a list).

    Raises:
        VestigeError: The intent is none of the three, or a setting has no JSON form.
    """

    name: str
    intent: Intent
    needs: tuple[str, ...] = ()
    source: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.intent not in ("removal", "suppression", "attack"):
            raise VestigeError(f"intent is 'removal', 'suppression' or 'attack', got {self.intent!r}")
        # What is compared and hashed is what a file would hold, so that a round trip changes neither.
        object.__setattr__(self, "needs", tuple(self.needs))
        object.__setattr__(self, "settings", {name: _json_value(name, v) for name, v in self.settings.items()})

    def __hash__(self) -> int:
        return int(self.fingerprint[:15], 16)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the content: the same in every process, and different where anything differs."""
        content = [self.name, self.intent, self.needs, self.source, self.settings]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _json_value(name: str, value: Any) -> Any:
    try:
        return json.loads(json.dumps(value))
    except (TypeError, ValueError) as error:
        raise VestigeError(f"setting {name!r} of a spec is a {type(value).__name__}, needed a JSON value") from error


@dataclass(frozen=True, eq=False)
class Intervention:
    """A change of a model's behaviour, at any of five points; building one changes nothing.

    Args:
        spec: Name, claim, needs and source.
        weights: Weight deltas, in force while the intervention is applied.
        edits: Site to an edit of the activation there.
        embedding: An edit of `hook_embed`, kept only on prompt tokens of the first chunk of a request.
        logits: An edit of the logits, or what `bind` turns into one when the intervention is applied.
        gate: Rows on which `edits`, `embedding` and `logits` act; every other row stays bit-identical.
        parts: Interventions that are applied one after the other instead; `a + b` makes it.

    Raises:
        VestigeError: There are parts and something beside them.
    """

    spec: Spec
    weights: WeightPatch | None = None
    edits: Mapping[SiteLike, Edit] = field(default_factory=dict)
    embedding: Edit | None = None
    logits: LogitEdit | Binds | None = None
    gate: Gate | None = None
    parts: tuple[Intervention, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(self.parts))
        beside = (self.weights, self.edits or None, self.embedding, self.logits, self.gate)
        if self.parts and any(one is not None for one in beside):
            raise VestigeError("an intervention made of parts changes nothing itself; put the change into a part")

    def __add__(self, other: Intervention) -> Intervention:
        """Return the intervention that applies this one and then the other, which acts on what this one left.

        Weight deltas have no order: all of them are in force whenever anything is read, so gates and combiners of
        either see those of both.

        It claims the weaker of the two: an attack if one is an attack, else a suppression if one is a suppression.
        """
        if not isinstance(other, Intervention):
            return NotImplemented
        parts = (*self.steps, *other.steps)
        intents = [part.spec.intent for part in parts]
        intent: Intent = next(one for one in ("attack", "suppression", "removal") if one in intents)
        spec = Spec(
            " + ".join(part.spec.name for part in parts),
            intent,
            tuple(dict.fromkeys(need for part in parts for need in part.spec.needs)),
            "; ".join(dict.fromkeys(part.spec.source for part in parts if part.spec.source)),
            {"parts": [{"name": part.spec.name, **part.spec.settings} for part in parts]},
        )
        return Intervention(spec, parts=parts)

    @property
    def steps(self) -> tuple[Intervention, ...]:
        """The interventions without parts that this one applies, in their order; itself where it has none."""
        return tuple(step for part in self.parts for step in part.steps) if self.parts else (self,)

    @property
    def points(self) -> tuple[str, ...]:
        """Which interception points are used, by any part."""
        if self.parts:
            here = {point for step in self.steps for point in step.points}
            return tuple(point for point in ("weights", "edits", "embedding", "logits", "gate") if point in here)
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

        Weight deltas change the model's parameters for the length of the block and are then restored bit by bit, also
        after an exception. Everything else acts only on what is read through the view, and only inside the block. What
        binds to the model is bound to the weights in force when it is read: also to deltas that come or go later.

        Args:
            model: A model, or the view of another intervention, which then stays in force too.

        Raises:
            VestigeError: The intervention does not fit the model.
        """
        with ExitStack() as stack:
            for step in self.steps:
                for site in step.edits:
                    model.site_map.editable(site)
                _refuse_dead_weights(step, model)
                if step.weights is not None:
                    stack.enter_context(patched(model.model, step.weights))
            first, *others = self.steps
            view = View(model, first)
            stack.callback(view.close)
            for step in others:
                view = View(view, step)
                stack.callback(view.close)
            yield view

    def save(self, folder: str | Path) -> None:
        """Write the intervention as JSON and safetensors into a new or empty folder.

        Raises:
            VestigeError: An edit is an ordinary function, which has no data form; the folder holds other files.
        """
        from hooked.persist import save

        save(self, Path(folder))

    @classmethod
    def load(cls, folder: str | Path) -> Intervention:
        """Read an intervention that `save` wrote.

        Nothing is unpickled, and only value classes of Vestige's own packages are built.

        Raises:
            VestigeError: The folder holds no intervention, or a damaged one, or one that names other code.
        """
        from hooked.persist import load

        return load(Path(folder))

    def bake(self, model: HookedModel, folder: str | Path) -> None:
        """Write a Hugging Face directory whose weights carry the intervention for good.

        Raises:
            VestigeError: The intervention is not made of weights alone; the message names what stays outside.
        """
        from hooked.persist import bake

        bake(self, model, Path(folder))


def _refuse_dead_weights(intervention: Intervention, model: HookedModel) -> None:
    named = () if intervention.weights is None else intervention.weights.deltas
    dead = next((name for name in named if name in model._geometry.detached), None)
    if dead is not None:
        raise VestigeError(
            f"this bridge computes with its own copies of '{dead}', so patching it would change nothing; "
            "apply the intervention to the Hugging Face model instead"
        )


class _Bound:
    """A logit edit bound to a model, and bound anew where other weight deltas are in force than at that time."""

    def __init__(self, source: Binds, raw: HookedModel) -> None:
        self._source, self._raw = source, raw
        self._weights = in_force(raw.model)
        self.edit: LogitEdit | None = self._bind()

    def __call__(self, logits: Tensor, request: Request, /) -> Tensor:
        weights = in_force(self._raw.model)
        if self.edit is None or weights != self._weights:
            # Let go first: another model may not fit into memory twice.
            self.edit = None
            self.edit, self._weights = self._bind(), weights
        return self.edit(logits, request)

    def _bind(self) -> LogitEdit:
        # Tensors made in inference mode could not be read with gradients afterwards.
        with torch.inference_mode(False):
            return self._source.bind(self._raw)


class View(HookedModel):
    """A model with interventions in force, read as a model is. Get one from `Intervention.applied`."""

    def __init__(self, base: HookedModel, intervention: Intervention) -> None:
        # A view shares everything with its base; only what `_interventions` and `_finish` return differs.
        self.__dict__.update(base.__dict__)
        self._base = base
        self._closed = False
        self._raw: HookedModel = base._raw if isinstance(base, View) else base
        earlier = base.interventions if isinstance(base, View) else ()
        self.interventions: tuple[Intervention, ...] = (*earlier, intervention)
        given = intervention.logits
        bound = _Bound(given, self._raw) if isinstance(given, Binds) else given
        before = base._logit_edits if isinstance(base, View) else ()
        self._logit_edits: tuple[LogitEdit | None, ...] = (*before, bound)

    def close(self) -> None:
        """End the view: weights are restored at this moment, so a later pass would show half of the intervention."""
        self._closed = True
        # Other models that an edit has bound go with it, also while somebody still holds the view.
        self._logit_edits = ()

    def over(self, base: HookedModel) -> HookedModel:
        """Return the same edits, gates and combiners on another copy of the model, which has the weights already.

        Args:
            base: A copy of `raw`, e.g. one that is being trained; its own interventions stay in force.
        """
        for intervention in self.interventions:
            rest = replace(intervention, weights=None)
            base = View(base, rest) if rest.points else base
        return base

    def _check_open(self) -> None:
        if self._closed:
            name = self.intervention.spec.name
            raise VestigeError(f"the view of '{name}' has ended; read it inside `with intervention.applied(model)`")
        if isinstance(self._base, View):
            self._base._check_open()

    @property
    def raw(self) -> HookedModel:
        """The same weights with every edit, gate and combiner stripped: what somebody who takes the weights has."""
        return self._raw

    @property
    def intervention(self) -> Intervention:
        """The one applied last."""
        return self.interventions[-1]

    def _interventions(self, request: Request) -> list[tuple[SiteLike, Edit]]:
        self._check_open()
        edits: list[tuple[SiteLike, Edit]] = []
        for index, intervention in enumerate(self.interventions):
            rows = self._gated(index, intervention, request)
            if intervention.embedding is not None and request.offset == 0:
                edits.append(("hook_embed", _only(intervention.embedding, rows=rows, prompt=True)))
            edits += [
                (site, edit if rows is None or only_notes(edit) else _only(edit, rows=rows))
                for site, edit in intervention.edits.items()
            ]
        return edits

    def _finish(self, logits: Tensor, request: Request) -> Tensor:
        for index, intervention in enumerate(self.interventions):
            edit = self._logit_edits[index]
            if edit is None:
                continue
            rows = self._gated(index, intervention, request)
            changed = edit(logits if rows is None else logits.clone(), request)
            if not isinstance(changed, Tensor) or changed.shape != logits.shape:
                came = f"shape {tuple(changed.shape)}" if isinstance(changed, Tensor) else type(changed).__name__
                raise VestigeError(
                    f"the logit edit of '{intervention.spec.name}' returned {came}, needed shape {tuple(logits.shape)}"
                )
            kept = None if rows is None else rows[:, None, None].to(logits.device)
            logits = changed if kept is None else torch.where(kept, changed, logits)
        return logits

    def _gated(self, index: int, intervention: Intervention, request: Request) -> Tensor | None:
        if intervention.gate is None:
            return None
        if index not in request.decided:
            # Decided once per request, on the prompt; later chunks inherit the decision.
            rows = intervention.gate(self.raw, request)
            if not isinstance(rows, Tensor) or rows.shape != (len(request.ids),) or rows.dtype != torch.bool:
                came = f"{rows.dtype} of shape {tuple(rows.shape)}" if isinstance(rows, Tensor) else type(rows).__name__
                name, needed = intervention.spec.name, f"bool of shape ({len(request.ids)},)"
                raise VestigeError(f"the gate of '{name}' returned {came}, needed {needed}")
            request.decided[index] = rows
        held: Tensor = request.decided[index]
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
        given = activation.clone()
        result = edit(given, hook=hook)
        # As anywhere, None means: keep what was given, with whatever was changed in it in place.
        result = given if result is None else result
        # Checked here already, because `where` would broadcast or promote what does not fit.
        check_replacement(result, activation, hook)
        return torch.where(where[(...,) + (None,) * (activation.ndim - 2)], result, activation)

    return restricted
