"""Putting weight patches in force and taking them back bit by bit.

While patches are in force, the ledger of a parameter keeps the untouched values of every region they cover. A region is
always `base + sum of the active deltas`, added in float32 (or wider) and rounded once, so patches may be left in any
order and the last one out restores the base values bit by bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from hooked.errors import VestigeError
from hooked.weights import (
    ColumnDelta,
    Delta,
    LowRankDelta,
    RowDelta,
    WeightPatch,
    hugging_face_name,
    parameters_of,
    values_of,
    wide,
)


@contextmanager
def patched(model: nn.Module, patch: WeightPatch) -> Iterator[None]:
    """Put a patch in force and restore the weights bit by bit, whatever happens in between and whichever is left first.

    Raises:
        VestigeError: A parameter does not exist, is shared and `patch.tied` is off, has another shape, or holds no
            floating point data.
    """
    entries = [(_LEDGERS.setdefault(id(p), _Ledger(p)), delta) for p, delta in _checked(model, patch)]
    token = object()
    try:
        for ledger, delta in entries:
            ledger.enter(token, delta)
        yield
    finally:
        for ledger, _ in entries:
            ledger.leave(token)


def in_force(model: nn.Module) -> frozenset[object]:
    """Return one token for each patch in force on a model: as long as they stay the same, so do its weights."""
    ledgers = (_LEDGERS.get(id(tensor)) for tensor in (*model.parameters(), *model.buffers()))
    return frozenset(token for ledger in ledgers if ledger is not None for token in ledger.active)


def _checked(model: nn.Module, patch: WeightPatch) -> list[tuple[Tensor, Delta]]:
    """Pair every delta with its parameter; one that is named twice under two tied names counts once."""
    weights: dict[str, Tensor] = {hugging_face_name(name): b for name, b in model.named_buffers(remove_duplicate=False)}
    weights.update(parameters_of(model))
    pairs: dict[int, tuple[str, Tensor, Delta]] = {}
    for name, delta in patch.deltas.items():
        if name not in weights:
            raise VestigeError(f"the model has no parameter '{name}'")
        weight = weights[name]
        shared = next((other for other, w in weights.items() if w is weight and other != name), None)
        if shared is not None and not patch.tied:
            raise VestigeError(
                f"'{name}' is tied to '{shared}', so patching it changes both; "
                "pass tied=True to the WeightPatch if that is meant, or untie the embeddings first"
            )
        _check_fit(name, delta, weight)
        if id(weight) in pairs and not _equal(pairs[id(weight)][2], delta):
            raise VestigeError(f"'{name}' and '{pairs[id(weight)][0]}' are one tied parameter; give its delta once")
        pairs.setdefault(id(weight), (name, weight, delta))
    return [(weight, delta) for _, weight, delta in pairs.values()]


def _check_fit(name: str, delta: Delta, weight: Tensor) -> None:
    if not weight.is_floating_point() or weight.is_meta:
        state = "offloaded" if weight.is_meta else f"stored as {weight.dtype}"
        raise VestigeError(f"'{name}' is {state}; weight patches need floating point weights in memory")
    shape = tuple(weight.shape)
    if isinstance(delta, RowDelta):
        fits = delta.values.shape[1:] == weight.shape[1:] and _indexes(delta, shape[0])
    elif isinstance(delta, ColumnDelta):
        fits = len(shape) == 2 and tuple(delta.values.shape[1:]) == shape[:1] and _indexes(delta, shape[1])
    elif isinstance(delta, LowRankDelta):
        fits = (*delta.left.shape[:1], *delta.right.shape[1:]) == shape and delta.left.shape[1:] == delta.right.shape[
            :1
        ]
    else:
        fits = tuple(delta.values.shape) == shape
    if not fits:
        raise VestigeError(f"the {type(delta).__name__} of '{name}' does not fit a parameter of shape {shape}")


def _indexes(delta: RowDelta | ColumnDelta, size: int) -> bool:
    """Whether the lines exist, are named once, and have one row of values each."""
    index = delta.index
    inside = index.numel() == 0 or bool(((index >= 0) & (index < size)).all())
    return inside and len(index.unique()) == len(index) == len(delta.values)


def _equal(one: Delta, other: Delta) -> bool:
    return type(one) is type(other) and all(torch.equal(a, b) for a, b in zip(_parts(one), _parts(other), strict=True))


def _parts(delta: Delta) -> list[Tensor]:
    return list(vars(delta).values())


class _Ledger:
    """The deltas in force on one parameter and the values beneath them.

    Rows (or columns) alone keep only their own lines; anything else keeps the whole parameter.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        self.active: dict[object, Delta] = {}
        self.whole: Tensor | None = None
        self.axis: int | None = None
        self.lines: dict[int, Tensor] = {}

    def enter(self, token: object, delta: Delta) -> None:
        self._keep(delta)
        self.active[token] = delta
        self._rebuild()

    def leave(self, token: object) -> None:
        if self.active.pop(token, None) is not None:
            self._rebuild()
        if not self.active:
            _LEDGERS.pop(id(self.weight), None)

    def _keep(self, delta: Delta) -> None:
        if self.whole is not None:
            return
        axis = {RowDelta: 0, ColumnDelta: 1}.get(type(delta))
        if isinstance(delta, RowDelta | ColumnDelta) and axis is not None and self.axis in (None, axis):
            self.axis = axis
            for line in delta.index.tolist():
                if line not in self.lines:
                    self.lines[line] = self.weight.data.select(axis, line).clone()
            return
        whole = self.weight.data.clone()
        for line, values in self.lines.items():
            whole.select(self.axis or 0, line).copy_(values)
        self.whole, self.lines = whole, {}

    @torch.no_grad()
    def _rebuild(self) -> None:
        deltas = list(self.active.values())
        if self.whole is not None:
            self.weight.data.copy_(_sum(self.whole, deltas))
        for line, base in self.lines.items():
            self.weight.data.select(self.axis or 0, line).copy_(_sum_line(base, deltas, line))


# A parameter has an entry only while a patch is in force on it; the ledger holds it, so its id cannot be reused
# meanwhile.
_LEDGERS: dict[int, _Ledger] = {}


def _sum(base: Tensor, deltas: list[Delta]) -> Tensor:
    if not deltas:
        return base
    total = wide(base).clone()
    for delta in deltas:
        values = values_of(delta).to(total)
        if isinstance(delta, RowDelta):
            total[delta.index.to(total.device)] += values
        elif isinstance(delta, ColumnDelta):
            total[:, delta.index.to(total.device)] += values.T
        else:
            total += values
    return total.to(base.dtype)


def _sum_line(base: Tensor, deltas: list[Delta], line: int) -> Tensor:
    total = wide(base).clone()
    found = False
    for delta in deltas:
        if isinstance(delta, RowDelta | ColumnDelta):
            for k in (delta.index == line).nonzero().flatten().tolist():
                total += delta.values[k].to(total)
                found = True
    return total.to(base.dtype) if found else base
